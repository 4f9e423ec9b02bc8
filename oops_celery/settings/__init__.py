"""Every setting, with its default and the name that changes it.

A setting comes from the environment, else from ``celeryconfig.py`` (found as Celery
finds it: ``CELERY_CONFIG_MODULE``, else ``celeryconfig`` in the current folder), else
from its default. An empty variable means not set, except for `MAY_BE_EMPTY`. Only names
that start with ``OOPS_`` count: those below, and Celery's (``OOPS_WORKER_CONCURRENCY``,
see `celery_settings`). So an application with its own celeryconfig can import
oops_celery, and neither disturbs the other.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from oops_celery.broker_url import check_other_url, heartbeat_of
from oops_celery.broker_url import hide_password as hide_password
from oops_celery.broker_url import parse_rabbitmq_url as parse_rabbitmq_url
from oops_celery.errors import SettingsError
from oops_celery.settings import repository_url
from oops_celery.settings.values import OWN, IPNetwork

#: The default broker, as in amqp-dispatcher.
DEFAULT_BROKER_URL = "amqp://guest:guest@localhost:5672/"

#: Seconds between heartbeats of a worker's connection; Celery's default.
DEFAULT_HEARTBEAT = 120

PREFIX = "OOPS_"

#: The default exchange, and a fanout's routing key, have empty names in AMQP.
MAY_BE_EMPTY = ("OOPS_EXCHANGE", "OOPS_ROUTING_KEY")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The settings in force."""

    #: The topology file; None means the packaged ``default.yml``.
    topology: str | None = None
    #: The repository: the URL of a database, or a folder.
    repository: str = "sqlite:///oopses.db"
    #: What a database keeps, 0 is no limit: days, bytes, reports of a group.
    keep_days: int = 0
    keep_bytes: int = 0
    keep_per_group: int = 0
    #: Whether the worker takes dead letters into the database.
    file_dead_letters: bool = True
    #: ``module:attribute`` of the `oops.Config` that takes reports in the worker.
    config: str | None = None
    #: The exchange and routing key for publishing.
    exchange: str = "oopses"
    routing_key: str = ""
    #: The queue that the worker takes reports from.
    queue: str = "oopses"
    #: Retries of a report before it is parked. With the default topology (10 s, 1 min,
    #: then 10 min each) they cover an outage of three hours.
    max_retries: int = 20
    #: Seconds a publish may take.
    publish_timeout: float = 5.0
    #: Seconds that consumers may take to end when the worker ends.
    shutdown_timeout: float = 30.0
    #: Bytes of the largest report. RabbitMQ 4 accepts 16 MiB by default.
    max_size: int = 16 * 1024 * 1024
    #: The URL of the pages, of `oops-celery web`: a report's page is URL/ID.
    web_url: str | None = None
    #: Who may log in there: a file of htpasswd's; else a header that a proxy in these
    #: networks sets.
    web_htpasswd: str | None = None
    web_trust_header: str | None = None
    web_trusted_proxy: tuple[IPNetwork, ...] = ()
    #: Whether everybody may read the pages.
    web_public: bool = False
    #: What signs the cookies of logins; None makes a new one for each process.
    web_secret: str | None = field(default=None, repr=False)
    #: Folder of reports that programs on this machine could not send yet.
    spool: str | None = None
    #: Celery's settings by Celery's own (lower case) names.
    celery: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Names that were found and do not count.
    ignored: tuple[str, ...] = ()

    @property
    def files_letters(self) -> bool:
        """Whether there is a database for dead letters, and they go there."""
        return self.file_dead_letters and repository_url.is_url(self.repository)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment and from ``celeryconfig``.

    Raises:
        SettingsError: An unusable value, or an unknown ``OOPS_`` name in
            ``celeryconfig``. An unknown name in the environment may belong to another
            program: it is a warning if it looks misspelt.
    """
    module = _celeryconfig(environ)
    own: dict[str, Any] = {}
    celery: dict[str, Any] = {}
    for name, value in vars(module).items() if module else ():
        if not name.startswith(PREFIX):
            continue
        key = name[len(PREFIX) :].lower()
        if key in OWN:
            own[key] = _own_setting(name, value, "celeryconfig")
        elif key in _celery_options():
            if _has_effect(name):
                _check(name, value, key)
                celery[key] = value
        else:
            unknown = _unknown(name, {*OWN, *_celery_options()})
            raise SettingsError(f"celeryconfig: {unknown}")
    for name, text in environ.items():
        if not text and name not in MAY_BE_EMPTY:
            continue
        key = name[len(PREFIX) :].lower() if name.startswith(PREFIX) else ""
        if key in OWN:
            own[key] = _own_setting(name, text, "environment")
        elif key and key in _celery_options():
            if _has_effect(name):
                celery[key] = _from_text(name, text, _celery_options()[key])
                _check(name, celery[key], key)
        elif key and _close(name, {*OWN, *_celery_options()}):
            unknown = _unknown(name, {*OWN, *_celery_options()})
            logger.warning("environment: %s", unknown)
    if celery:
        from oops_celery.settings import celery_settings

        celery_settings.check_together(celery)
    if "worker_pool" in celery:
        _check_pool(celery["worker_pool"])
    ignored = _ignored(module, _celery_options()) if module else ()
    return Settings(**own, celery=celery, ignored=ignored)


@cache
def _celery_options() -> dict[str, Any]:
    """Return Celery's settings; importing them takes 100 ms."""
    from celery.app.defaults import NAMESPACES, flatten

    return dict(flatten(NAMESPACES))


def _has_effect(name: str) -> bool:
    from oops_celery.settings import celery_settings

    return celery_settings.has_effect(name)


def _check(name: str, value: Any, key: str) -> None:
    from oops_celery.settings import celery_settings

    celery_settings.check(name, value, _celery_options()[key])


def import_from_cwd(name: str) -> ModuleType:
    """Import a module, also one in the current folder, as Celery does.

    Raises:
        ImportError: There is none.
        Exception: Whatever it raises.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed
        return import_module(name)
    if folder in sys.path:
        return import_module(name)
    sys.path.insert(0, folder)
    try:
        return import_module(name)
    finally:
        with suppress(ValueError):  # the module removed it
            sys.path.remove(folder)


def _celeryconfig(environ: Mapping[str, str]) -> ModuleType | None:
    name = environ.get("CELERY_CONFIG_MODULE") or "celeryconfig"
    try:
        module: ModuleType = import_from_cwd(name)
        if getattr(module.__spec__, "_initializing", False):
            raise ImportError("it is being imported, and asks for a setting of its own")
        return module
    except ModuleNotFoundError as error:
        if error.name == name and not environ.get("CELERY_CONFIG_MODULE"):
            return None
        raise SettingsError(
            f"CELERY_CONFIG_MODULE={name!r}: there is no module {error.name!r}; "
            "put it into the current folder or on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # a program may raise anything
        raise SettingsError(
            f"{name}.py cannot be read: {type(error).__name__}: {error}; mend it, or "
            "name another module in CELERY_CONFIG_MODULE"
        ) from error


def _own_setting(name: str, value: Any, place: str) -> Any:
    reader, expected = OWN[name[len(PREFIX) :].lower()]
    try:
        return reader(value)
    except (ValueError, TypeError, AttributeError, LookupError, OSError):
        if name in ("OOPS_REPOSITORY", "OOPS_WEB_URL") and isinstance(value, str):
            value = repository_url.without_password(value)
        elif name == "OOPS_WEB_SECRET":
            value = "***"
        raise SettingsError(f"{name}={value!r} ({place}): must be {expected}") from None


def _from_text(name: str, text: str, option: Any) -> Any:
    if option.type in ("string", "str", "bytes") or text == "auto":
        return text
    try:
        return json.loads(text)
    except ValueError:
        from oops_celery.settings import celery_settings

        shown = celery_settings.shown(name, text)
        raise SettingsError(
            f"{shown} (environment): must be a number, true, false, or JSON"
        ) from None


def _check_pool(name: Any) -> None:
    """Check the pool's name: Celery imports any name, with a traceback if it fails."""
    from celery.concurrency import get_available_pool_names

    known = get_available_pool_names()
    if name not in known and not {".", ":"} & set(str(name)):
        raise SettingsError(
            f"OOPS_WORKER_POOL={name!r}: must be one of {', '.join(known)}, or "
            "package.module:Class"
        )


def _unknown(name: str, keys: set[str]) -> str:
    close = _close(name, keys)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{name}: there is no such setting{hint}"


def _close(name: str, keys: set[str]) -> list[str]:
    known = [PREFIX + key.upper() for key in keys]
    return get_close_matches(name, known, n=1, cutoff=0.8)


def _ignored(module: ModuleType | None, options: Mapping[str, Any]) -> tuple[str, ...]:
    old_names = {old for option in options.values() for old in option.old or ()}
    known = {*options, *(name.upper() for name in options)}
    return tuple(
        name
        for name in vars(module or object)
        if not name.startswith("_") and (name in known or name.lower() in old_names)
    )


def broker(
    celery: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Return Celery's settings for the broker.

    Separate from `load`: a program with its own connection factory needs no broker of
    ours, and may use the variable for something else.

    Args:
        celery: Celery's settings from `load`.
        environ: The environment.

    Raises:
        SettingsError: A URL or ``RABBITMQ_HEARTBEAT`` cannot be used.
    """
    url = environ.get("RABBITMQ_URL")
    other = celery.get("broker_url", DEFAULT_BROKER_URL)
    if url:
        broker = parse_rabbitmq_url(url)
    elif isinstance(other, str) and other.startswith(("amqp://", "amqps://")):
        broker = parse_rabbitmq_url(other, "OOPS_BROKER_URL")
    else:
        broker = {"broker_url": other}  # a list, or another transport of kombu's
        urls = other if isinstance(other, (list, tuple)) else str(other).split(";")
        for each in urls:
            check_other_url(str(each), "OOPS_BROKER_URL")
    heartbeat = environ.get("RABBITMQ_HEARTBEAT")
    if heartbeat:
        broker["broker_heartbeat"] = heartbeat_of(heartbeat, "RABBITMQ_HEARTBEAT")
    return broker
