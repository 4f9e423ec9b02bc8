"""A WSGI application, and an error page with the id of the report.

::

    python -m examples.wsgi_app
    curl -i 'http://localhost:8000/?item=coffee'
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

import oops
import oops_wsgi

import oops_celery

PAGE = """<!DOCTYPE html>
<title>Sorry</title>
<h1>Something went wrong</h1>
<p>We have been told. If you write to us, please mention <b>{id}</b>.</p>
"""

config = oops.Config()
# While RabbitMQ is away they are kept here, for `oops-celery resubmit var/fallback`.
fallback = oops_celery.FolderPublisher("var/fallback")
config.publisher = oops.publish_with_fallback(oops_celery.publisher, fallback)
config.template["reporter"] = "shop"
oops_wsgi.install_hooks(config)
# Behind the other hooks: it can only blank what is there already.
config.on_create.append(oops_celery.scrub)


def checkout(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """Sell something; the price may be missing."""
    prices = {"tea": 3}
    item = parse_qs(environ["QUERY_STRING"])["item"][0]
    total = prices[item]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(total).encode()]


def error_page(report: dict[str, Any]) -> bytes:
    """Return the page of an error: bytes, which oops-wsgi's own template is not."""
    return PAGE.format(id=report["id"]).encode()


# Any WSGI server can run this: gunicorn examples.wsgi_app:application
application = oops_wsgi.make_app(checkout, config, error_render=error_page)


if __name__ == "__main__":
    port = int(os.environ.get("PORT") or "8000")
    print(f"http://localhost:{port}/?item=coffee", flush=True)
    make_server("127.0.0.1", port, application).serve_forever()
