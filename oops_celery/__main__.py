"""``python -m oops_celery`` is ``oops-celery``."""

from oops_celery.cli import main

main(prog_name="oops-celery")
