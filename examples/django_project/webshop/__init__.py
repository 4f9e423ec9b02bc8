"""A shop: its own Celery app beside that of oops_celery."""

from .celery import app as celery_app

__all__ = ["celery_app"]
