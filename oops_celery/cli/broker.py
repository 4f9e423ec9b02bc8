"""Options and connecting for commands that talk to a broker; exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from oops_celery.celery import App
    from oops_celery.operations.management import Management
    from oops_celery.topology.model import Topology
    from oops_celery.transport.link import Link

#: Seconds for connecting to the broker, and for each answer after that.
BROKER_TIMEOUT = 3.0

_F = TypeVar("_F", bound=Callable[..., Any])


class CannotTell(click.ClickException):
    """The command cannot do its work: one line on standard error, and exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the message without control characters."""
        from oops_celery.cli.console import escaped

        return "\n".join(map(escaped, self.message.splitlines()))


def file_option(command: _F) -> _F:
    """Add the option ``--file`` to a command."""
    return click.option(
        "--file",
        type=click.Path(),
        help="The topology file; by default OOPS_TOPOLOGY, else the packaged one.",
    )(command)


def management_option(command: _F) -> _F:
    """Add the option ``--management-url`` to a command."""
    return click.option(
        "--management-url",
        envvar="OOPS_MANAGEMENT_URL",
        metavar="URL",
        help="RabbitMQ's management API: http://host:15672. User and password are"
        " those of the broker, unless the URL has others. Also: the environment"
        " variable OOPS_MANAGEMENT_URL.",
    )(command)


@contextmanager
def telling_why() -> Iterator[None]:
    """Turn errors of the settings or the topology file into exit code 2."""
    try:
        yield
    except ValueError as error:  # SettingsError, TopologyError
        raise CannotTell(str(error)) from None
    except click.ClickException as error:  # the same, by the app
        raise CannotTell(error.message) from None


def loaded(app: App, file: str | None) -> Topology:
    """Return the topology of a file, or that of the settings."""
    from oops_celery.topology.model import Topology

    with telling_why():
        return app.topology if file is None else Topology.load(file)


def broker_name(app: App) -> str:
    """Return the broker's URL without user and password."""
    with telling_why():
        return app.broker_name


@contextmanager
def connected(app: App, any_broker: bool = False) -> Iterator[Link]:
    """Connect to a RabbitMQ; an error ends the command.

    The link has kombu's connection, with a limit on each wait. With ``any_broker`` it
    may use another transport of kombu's: then ``link.is_amqp`` is False.
    """
    from amqp.exceptions import ConnectionError as AMQPConnectionError

    from oops_celery.errors import Unavailable
    from oops_celery.transport.sender import Sender
    from oops_celery.transport.troubles import in_a_line

    name = broker_name(app)
    sender = Sender(app.connection_for_read, BROKER_TIMEOUT, confirm=False)
    try:
        link = sender.open()
    except Unavailable as error:
        raise CannotTell(f"{name}: {in_a_line(error, BROKER_TIMEOUT)}") from None
    if not link.is_amqp and not any_broker:
        raise CannotTell(f"{name}: only a RabbitMQ can be asked; set RABBITMQ_URL")
    try:
        yield link
    except (OSError, AMQPConnectionError) as error:
        raise CannotTell(f"{name}: {in_a_line(error, BROKER_TIMEOUT)}") from None
    finally:
        link.close()


def management(url: str, app: App) -> Management:
    """Return the management API at a URL, by default with the broker's user."""
    from oops_celery.errors import ManagementError
    from oops_celery.operations.management import Management

    broker = app.connection_for_read()
    try:
        return Management(
            url,
            broker.userid or "guest",
            broker.password or "guest",
            broker.virtual_host or "/",
        )
    except ManagementError as error:
        raise CannotTell(str(error)) from None
