"""oops-celery against oops-amqp and against the limits, in one run: `make bench`."""
