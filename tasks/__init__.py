"""The tasks of oops_celery; installed as ``oops_celery.tasks``."""
