"""Variables and command-line options that Celery reads besides our settings.

Celery's variables belong to the application, whose environment a worker often shares.
None of them decides where reports come from. docs/security.md has the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oops_celery.errors import SettingsError

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Variables that Celery prefers to any setting.
_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_LOADER",
)

#: Options of ``celery`` that would have no effect, and what to do instead.
_OPTIONS = {
    "broker": "set RABBITMQ_URL",
    "result_backend": "reports have no results that Celery could keep; leave it out",
    "loader": "settings come from the environment and celeryconfig.py; leave it out",
}


class WithoutVariables(click.Option):
    """A hidden option of ``celery worker`` with a callback.

    Celery reads each option from a variable too: ``CELERY_WORKER_QUEUES`` for
    ``--queues``. Click reads this option first, and then looks for no other variables.
    """

    def __init__(self) -> None:
        super().__init__(
            ["--without-variables"],
            is_flag=True,
            is_eager=True,
            hidden=True,
            expose_value=False,
            callback=_without_variables,
        )


#: The variables for options of the worker that starts.
_for_options: list[str] = []


def _without_variables(context: click.Context, *_: Any) -> None:
    prefix, context.auto_envvar_prefix = context.auto_envvar_prefix, None
    names = (f"{prefix}_{option.name}".upper() for option in context.command.params)
    _for_options[:] = [name for name in names if os.environ.get(name)]


def ignored() -> list[str]:
    """Return the variables that Celery would use, and that have no effect here."""
    return [name for name in _VARIABLES if os.environ.get(name)] + _for_options


def check_options(app: App) -> None:
    """Check the options of ``celery``, if it is running with our app.

    Raises:
        SettingsError: One of them would have no effect.
    """
    context = click.get_current_context(silent=True)
    root = context and context.find_root()
    if root is None or getattr(root.obj, "app", None) is not app:
        return
    for name, advice in _OPTIONS.items():
        if root.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise SettingsError(f"--{name.replace('_', '-')}: {advice}")


#: Numeric options of the worker, and the least value of each.
_LEAST = {
    "prefetch_multiplier": 0,
    "time_limit": 0,
    "soft_time_limit": 0,
    "max_tasks_per_child": 1,
    "max_memory_per_child": 1,
}


def check_worker_options(app: App, options: Mapping[str, Any]) -> None:
    """Check the options of ``celery worker``.

    Args:
        app: Our app.
        options: The options by Celery's names; None for one that is not given.

    Raises:
        SettingsError: An option would keep reports from arriving, or take messages
            that are not ours.
    """
    own = app.oops.queue
    for name in _names(options.get("queues")):
        if name != own or app.topology.queue(own) is None:
            raise SettingsError(
                f"-Q {name}: the worker takes reports from OOPS_QUEUE={own!r} and "
                "messages for the consumers of the topology, and nothing else; set "
                "OOPS_QUEUE, or leave -Q out"
            )
    if own in _names(options.get("exclude_queues")):
        raise SettingsError(
            f"-X {own}: the worker would take no reports; leave it out, or name a file "
            "without that queue in OOPS_TOPOLOGY"
        )
    if options.get("beat"):
        raise SettingsError("-B: nothing is scheduled here; leave it out")
    for name, least in _LEAST.items():
        value = options.get(name)
        if value is not None and value < least:
            raise SettingsError(
                f"--{name.replace('_', '-')}={value:g}: must be {least} or more"
            )


def _names(text: str | Iterable[str] | None) -> list[str]:
    return text.split(",") if isinstance(text, str) else list(text or ())
