"""Tests of `oops_celery.testing`."""
