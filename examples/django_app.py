"""A Django application, and an error page with the id of the report.

One file, to be short; what is below "Reports" goes into any project as it is::

    python -m examples.django_app runserver --noreload 8000
    curl -i 'http://localhost:8000/?item=coffee'
"""

from __future__ import annotations

import sys
from typing import Any

import oops
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.signals import got_request_exception
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.urls import path
from django.utils.html import format_html

import oops_celery

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of this example alone",
)

# Reports


def describe_request(report: dict[str, Any], context: dict[str, Any]) -> None:
    """Put the request into the report: a hook."""
    request: HttpRequest = context["request"]
    report["url"] = request.get_full_path()
    report["req_vars"] = {"REQUEST_METHOD": request.method, **request.headers}


config = oops.Config()
config.publisher = oops_celery.publisher
config.template["reporter"] = "shop"
# The scrubber behind the other hooks: it can only blank what is there already.
config.on_create += [describe_request, oops_celery.scrub]


def report_exception(request: HttpRequest, **_: Any) -> None:
    """Publish what no view and no middleware has caught."""
    match = request.resolver_match
    context = {
        "exc_info": sys.exc_info(),
        "request": request,
        "topic": match.view_name if match else request.path,
    }
    ids = config.publish(config.create(context))
    request.oops_id = ids[-1] if ids else None


got_request_exception.connect(report_exception, weak=False)


def handler500(request: HttpRequest) -> HttpResponse:
    """Show the id to the user. Django calls it by this name, where DEBUG is off."""
    mention = ""
    if getattr(request, "oops_id", None):
        mention = format_html(
            "<p>We have been told. If you write to us, please mention <b>{}</b>.</p>",
            request.oops_id,
        )
    page = "<!DOCTYPE html><title>Sorry</title><h1>Something went wrong</h1>"
    return HttpResponseServerError(page + mention)


# The application


def checkout(request: HttpRequest) -> HttpResponse:
    """Sell something; the price may be missing."""
    prices = {"tea": 3}
    return HttpResponse(prices[request.GET["item"]])


urlpatterns = [path("", checkout, name="checkout")]

# Any WSGI server can run this: gunicorn examples.django_app:application
application = get_wsgi_application()


if __name__ == "__main__":
    execute_from_command_line(sys.argv)
