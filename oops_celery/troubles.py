"""What can be wrong with a connection to the broker, for a person."""

from __future__ import annotations

import ssl
from socket import gaierror

import amqp

#: What can be wrong with a connection; the first that fits.
_TROUBLES: tuple[tuple[type[BaseException], str, str], ...] = (
    (
        amqp.AccessRefused,
        "wrong user or password",
        "set RABBITMQ_URL, or at the broker: rabbitmqctl change_password",
    ),
    (
        amqp.NotAllowed,
        "no such virtual host, or the user may not use it",
        "check the path of RABBITMQ_URL, or rabbitmqctl set_permissions",
    ),
    (
        ssl.SSLError,
        "TLS fails: one side refuses the other's certificate, or has no TLS there",
        "check the port, cacertfile and certfile of RABBITMQ_URL",
    ),
    (gaierror, "there is no such host", "check the host in RABBITMQ_URL"),
    (
        ConnectionRefusedError,
        "nothing listens there",
        "start RabbitMQ, or set RABBITMQ_URL to where it is",
    ),
    (
        TimeoutError,
        "no answer in time",
        "it hangs, or a firewall drops what is sent: see RabbitMQ's log, restart it",
    ),
)


def trouble(error: BaseException) -> tuple[str, str]:
    """Return what is wrong with a connection, and what to do."""
    chain = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if "blocked by the broker" in str(error):
        return (
            "an alarm is on, and it takes no reports",
            "free memory or disk space there, or raise RabbitMQ's limits",
        )
    for kind, text, fix in _TROUBLES:
        if any(isinstance(each, kind) for each in chain):
            return text, fix
    return str(error) or type(error).__name__, "see RabbitMQ's log"


def in_a_line(error: BaseException, timeout: float) -> str:
    """Return what is wrong with a connection and what to do, in one line.

    Args:
        error: What came of connecting, or of asking.
        timeout: Seconds that an answer had.
    """
    text, fix = trouble(error)
    if (text, fix) == trouble(TimeoutError()):
        text = f"no answer within {timeout:g} s"
    return f"{text}; {fix}"
