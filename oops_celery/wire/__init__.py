"""A report as bytes and as a task message: pure functions, no connection."""

from oops_celery.wire.report import *  # noqa: F403
from oops_celery.wire.report import MAX_DEPTH as MAX_DEPTH
from oops_celery.wire.report import USERINFO as USERINFO
