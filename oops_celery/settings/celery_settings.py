"""Celery's settings under our prefix: the ones that cannot be used, and valid values.

All others mean what Celery's documentation says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from celery.utils.time import rate

from oops_celery.broker_url import whole_number
from oops_celery.errors import SettingsError

logger = logging.getLogger(__name__)

_URL = "set RABBITMQ_URL"
_QUEUE = "set OOPS_QUEUE, and OOPS_TOPOLOGY for its kind"
_EXCHANGE = "set OOPS_EXCHANGE and OOPS_ROUTING_KEY"
_OWN_CLASS = "the worker has one of its own; leave it out"
_NO_RESULTS = "reports have no results that Celery could keep; leave it out"

#: Prefixes of result backends' settings. They have no effect here, and in the
#: environment they may belong to another program (OOPS_DATABASE_URL).
_OF_RESULTS = (
    *("arangodb_", "azureblockblob_", "cache_", "cassandra_", "cosmosdbsql_"),
    *("couchbase_", "database_", "elasticsearch_", "gcs_", "mongodb_", "redis_"),
    *("result_", "s3_"),
)

#: Settings that would keep reports from arriving, lose some, or be overruled silently;
#: and what to do instead.
_REFUSED = {
    "accept_content": "the worker accepts reports, and JSON for control; leave it out",
    "broker_host": _URL,
    "broker_password": _URL,
    "broker_port": _URL,
    "broker_read_url": _URL,
    "broker_use_ssl": f"{_URL}=amqps://..., with cacertfile, certfile, keyfile, verify",
    "broker_user": _URL,
    "broker_vhost": _URL,
    "broker_write_url": _URL,
    "control_queue_durable": "the queue ends with its worker; leave it out",
    "event_queue_durable": "the queue ends with its reader; leave it out",
    "event_serializer": "Flower reads JSON; leave it out",
    "include": "set OOPS_IMPORTS",
    "result_backend": _NO_RESULTS,
    # It could acknowledge reports before they are stored.
    "task_annotations": "set limits by OOPS_TASK_TIME_LIMIT and its like",
    "task_default_exchange": _EXCHANGE,
    "task_default_exchange_type": _QUEUE,
    "task_default_queue": _QUEUE,
    "task_default_queue_type": _QUEUE,
    "task_default_routing_key": _EXCHANGE,
    "task_protocol": "reports travel in Celery's protocol 2; leave it out",
    "task_queue_max_priority": _QUEUE,
    "task_queues": _QUEUE,
    "task_routes": _EXCHANGE,
    "task_serializer": "a report is one BSON document; leave it out",
    "worker_agent": _OWN_CLASS,
    "worker_autoscaler": _OWN_CLASS,
    "worker_consumer": _OWN_CLASS,
    # It asks a result backend for each redelivered report.
    "worker_deduplicate_successful_tasks": _NO_RESULTS,
    # It sets limits for a whole channel, which quorum queues do not know.
    "worker_detect_quorum_queues": "the worker knows its queue; leave it out",
    "worker_direct": "the worker takes reports from OOPS_QUEUE alone; leave it out",
    # Running reports would have no end.
    "worker_pool_restarts": "end the worker, and start it again; leave it out",
    "worker_timer": _OWN_CLASS,
}

#: Numbers that must be above 0: with 0, Celery divides by it, waits forever, or does
#: not wait at all.
_POSITIVE = {
    "broker_connection_timeout",
    "broker_heartbeat_checkrate",
    "control_queue_expires",
    "control_queue_ttl",
    "worker_lost_wait",
    "worker_max_memory_per_child",
    "worker_max_tasks_per_child",
    "worker_proc_alive_timeout",
    "worker_timer_precision",
}

_NUMBER = (int, float)
_STRUCTURES: dict[Any, tuple[tuple[type, ...], str]] = {
    "bool": ((bool, int), "true or false"),
    "dict": ((Mapping,), "an object"),
    "list": ((list, tuple, set), "a list"),
    "tuple": ((list, tuple, set), "a list"),
}


def _concurrency(value: Any) -> None:
    if value != "auto":
        whole_number(value)


def _one_of(*names: str) -> Callable[[Any], None]:
    def check_name(value: Any) -> None:
        if value not in names and not callable(value):
            raise ValueError

    return check_name


#: Settings whose values are tried, and what they must be.
_TRIED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "broker_failover_strategy": (
        _one_of("round-robin", "shuffle"),
        "round-robin or shuffle",
    ),
    "broker_login_method": (
        _one_of("PLAIN", "AMQPLAIN", "EXTERNAL"),
        "PLAIN, AMQPLAIN or EXTERNAL",
    ),
    "task_default_rate_limit": (rate, "a rate, as 10/s"),
    "timezone": (ZoneInfo, "the name of a time zone, as Europe/Berlin"),
    "worker_concurrency": (_concurrency, "a whole number, or auto"),
    "worker_log_format": (logging.Formatter, "a format of Python's logging"),
    "worker_pool_start_method": (_one_of("fork", "spawn"), "fork or spawn"),
    "worker_task_log_format": (logging.Formatter, "a format of Python's logging"),
}


#: Name parts of settings that contain passwords, which are never shown.
_SECRET = ("PASSWORD", "TRANSPORT_OPTIONS")


def shown(name: str, value: Any) -> str:
    """Return a setting for an error message, without a possible password."""
    return (
        f"{name}=**" if any(each in name for each in _SECRET) else f"{name}={value!r}"
    )


def has_effect(name: str) -> bool:
    """Return whether a setting of Celery has an effect here; log if it has none.

    Args:
        name: The name in the environment or in ``celeryconfig``.
    """
    key = name.partition("_")[2].lower()
    if key in _REFUSED or not key.startswith(_OF_RESULTS):
        return True
    logger.warning("%s: has no effect: %s", name, _NO_RESULTS)
    return False


def check(name: str, value: Any, option: Any) -> None:
    """Check a setting of Celery.

    Args:
        name: The name in the environment or in ``celeryconfig``.
        value: Its value in Python.
        option: Celery's description of it.

    Raises:
        SettingsError: It cannot be used here, or not with this value.
    """
    key = name.partition("_")[2].lower()
    if key in _REFUSED:
        raise SettingsError(f"{name}: has no place here: {_REFUSED[key]}")
    expected = None if value is None else _unmet(key, value, option.type)
    if expected:
        raise SettingsError(f"{shown(name, value)}: must be {expected}")


def check_together(celery: Mapping[str, Any]) -> None:
    """Check settings of Celery that only have a meaning together.

    Raises:
        SettingsError: One of them stands alone.
    """
    if "broker_transport" in celery and "broker_url" not in celery:
        raise SettingsError(f"OOPS_BROKER_TRANSPORT: has no place here: {_URL}")


def _unmet(key: str, value: Any, kind: Any) -> str | None:
    """Return what a value must be, if it is not that."""
    if key in _TRIED:
        use, expected = _TRIED[key]
        try:
            use(value)
        except Exception:  # any error means that it cannot be used
            return expected
        return None
    if kind in ("int", "float", int) and not isinstance(value, timedelta):
        whole = kind != "float"
        expected = f"a {'whole ' if whole else ''}number, "
        expected += "more than 0" if key in _POSITIVE else "0 or more"
        if isinstance(value, bool) or not isinstance(value, int if whole else _NUMBER):
            return expected
        enough = value > 0 if key in _POSITIVE else value >= 0
        return None if enough else expected
    kinds, expected = _STRUCTURES.get(kind, ((object,), ""))
    return None if isinstance(value, kinds) else expected
