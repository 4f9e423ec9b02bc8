"""amqp-dispatcher's ``Consumer`` classes, run as Celery tasks."""
