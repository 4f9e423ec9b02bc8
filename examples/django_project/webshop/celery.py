"""The shop's own Celery app; each of its tasks that fails becomes a report."""

import os

from celery import Celery

import oops_celery

from .oopses import config

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webshop.settings")
app = Celery("webshop", include=["webshop.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")
oops_celery.report_failures(app, config)
