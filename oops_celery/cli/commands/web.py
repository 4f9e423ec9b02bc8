"""``oops-celery web``: the pages of reports, groups and dead letters."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from oops_celery.cli.broker import CannotTell, telling_why

if TYPE_CHECKING:
    from oops_celery.settings import Settings

#: Connections that wait to be accepted, as uvicorn has it.
BACKLOG = 2048


@click.command(
    "web",
    short_help="Serve the pages of reports and dead letters.",
    help="""Serve the pages of the reports, groups and dead letters in the repository
    (OOPS_REPOSITORY, a database), until Ctrl-C.

    Without a login they are for this machine alone: on another address the command
    refuses to start, unless --public lets everybody read. Changes (replay, discard,
    resolve, mute) always need a login: a user of a file that `htpasswd -B` made, or one
    that a proxy names in a header. Each option is also a setting: OOPS_WEB_HTPASSWD.

    OOPS_WEB_URL is the address that people use; reports' pages are below it, also
    behind a proxy that serves them under a path.

    The exit code is 0 after Ctrl-C; 2 when it cannot serve, or the settings cannot be
    used.
    """,
    epilog="""\b
Examples:
  oops-celery web
  oops-celery web --host 0.0.0.0 --htpasswd /etc/oops-celery/users
  oops-celery web --trust-header X-Forwarded-User --trusted-proxy 10.0.0.0/8
""",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 means all.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option("--public", is_flag=True, help="Let everybody read, without a login.")
@click.option("--htpasswd", metavar="FILE", help="Who may log in: made by htpasswd -B.")
@click.option(
    "--trust-header",
    metavar="NAME",
    help="The header in which a trusted proxy names the user.",
)
@click.option(
    "--trusted-proxy",
    metavar="NETWORKS",
    help="Addresses of such proxies, with commas: 10.0.0.0/8,::1",
)
def command(host: str, port: int, **options: Any) -> None:
    """Serve the pages."""
    import uvicorn

    from oops_celery.celery import app
    from oops_celery.web.application import application

    with telling_why():
        made = application(app, _settings(app.oops, options))
    if not made.state.site.access.may_listen(host):
        raise CannotTell(
            f"--host {host}: everybody who reaches it could read all reports; name "
            "who may (--htpasswd FILE, or --trust-header), or say --public"
        )
    _log_changes()
    config = uvicorn.Config(
        made,
        log_level="warning",
        access_log=False,
        server_header=False,
        # The address of whoever connects decides which proxy is trusted.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than a proxy's, which would lose a request
    )
    listening = _listen(host, port)
    number = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"The pages are on http://{shown}:{number}/; Ctrl-C ends it.")
    # In the end uvicorn sends itself the signal that it got, for handlers of before.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    asyncio sends small answers at once (TCP_NODELAY) only on a socket whose protocol is
    named; uvicorn's own is not, and each answer took 40 ms.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)  # whoever reads the address below can connect
    except OSError as error:
        why = error.strerror or error
        raise CannotTell(f"cannot serve on {host} port {port}: {why}") from None
    return made


def _settings(settings: Settings, options: dict[str, Any]) -> Settings:
    """Return the settings with the options of the command."""
    from oops_celery.errors import SettingsError
    from oops_celery.settings.values import OWN

    changes: dict[str, Any] = {}
    for name, value in options.items():
        if not value:
            continue
        reader, expected = OWN[f"web_{name}"]
        try:
            changes[f"web_{name}"] = reader(value)
        except (ValueError, TypeError):
            option = name.replace("_", "-")
            raise SettingsError(f"--{option} {value!r}: must be {expected}") from None
    return replace(settings, **changes)


def _log_changes() -> None:
    """Log who changed what, and who was refused."""
    import logging

    logging.getLogger("oops_celery.web").setLevel(logging.INFO)
    for handler in logging.root.handlers:
        form = "%(asctime)s %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(form))
