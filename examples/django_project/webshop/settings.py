"""Django's settings; those of Celery start with CELERY."""

import os
from pathlib import Path

ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
DEBUG = os.environ.get("DEBUG") == "1"
MIDDLEWARE = [
    # The first one: so it sees what the other ones fail with.
    "webshop.oopses.OopsMiddleware",
    "django.middleware.common.CommonMiddleware",
]
ROOT_URLCONF = "webshop.urls"
SECRET_KEY = "of this example alone"
WSGI_APPLICATION = "webshop.wsgi.application"

CELERY_BROKER_URL = os.environ.get("RABBITMQ_URL", "amqp://")
CELERY_TASK_DEFAULT_QUEUE = "webshop"

#: Where reports are kept while RabbitMQ is away; `oops-celery resubmit` sends them on.
OOPS_FALLBACK = os.environ.get("FALLBACK", str(Path("var/fallback").absolute()))
