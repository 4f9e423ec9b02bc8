"""A Celery application whose failing tasks become reports.

Two terminals, or `celery ... worker &`::

    celery -A examples.celery_app worker      # logs the id of each report
    python -m examples.celery_app "a lot"     # send it a task that fails
"""

from __future__ import annotations

import os
import sys

import oops
from celery import Celery

import oops_celery

config = oops.Config()
# While RabbitMQ is away they are kept here, for `oops-celery resubmit var/fallback`.
fallback = oops_celery.FolderPublisher("var/fallback")
config.publisher = oops.publish_with_fallback(oops_celery.publisher, fallback)
config.template["reporter"] = "shop"
config.on_create.append(oops_celery.scrub)

app = Celery(
    "shop",
    broker=os.environ.get("RABBITMQ_URL") or "amqp://",
    set_as_current=False,
)
app.conf.task_default_queue = "shop"

# All that is needed:
oops_celery.report_failures(app, config)


@app.task(name="shop.invoice")
def invoice(amount: str) -> int:
    """Write an invoice."""
    return int(amount)


if __name__ == "__main__":
    for amount in sys.argv[1:]:
        print(invoice.delay(amount).id)
