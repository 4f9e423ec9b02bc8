"""Explain an error of the broker: what is wrong, whether it lasts, and what to do.

The code and the text of AMQP errors count, not their class. 403 is a wrong password or
a missing right, 530 a missing virtual host or one connection too many, and each of them
may close a channel or the connection.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from socket import gaierror

from amqp.exceptions import AMQPError


@dataclass(frozen=True)
class Trouble:
    """An explanation for a person.

    Attributes:
        text: What is wrong.
        fix: What to do.
        lasting: Whether asking again is useless until somebody acts.
    """

    text: str
    fix: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}"


_LOG = "see RabbitMQ's log"

_ALARM = Trouble(
    "an alarm is on, and it takes no reports",
    "free memory or disk space there, or raise RabbitMQ's limits",
)
_PASSWORD = Trouble(
    "wrong user or password",
    "set RABBITMQ_URL, or at the broker: rabbitmqctl change_password",
    lasting=True,
)
_VHOST = Trouble(
    "no such virtual host",
    "check the path of RABBITMQ_URL, or rabbitmqctl add_vhost (amqp-dispatcher 0.4 "
    "took the / before it for a part of the name: write %2F)",
    lasting=True,
)
_VHOST_REFUSED = Trouble(
    "the user may not use this virtual host",
    "check the path of RABBITMQ_URL, or rabbitmqctl set_permissions",
    lasting=True,
)
#: Errors below AMQP; the first match counts.
_BELOW: tuple[tuple[type[BaseException], Trouble], ...] = (
    (
        ssl.SSLCertVerificationError,
        Trouble(
            "TLS fails: the broker's certificate is not of a known authority, not for"
            " this host, or out of date",
            "check the host and cacertfile of RABBITMQ_URL, and the certificate",
            lasting=True,
        ),
    ),
    (
        ssl.SSLEOFError,
        Trouble(
            "TLS fails: the connection was closed",
            "check the port and certfile of RABBITMQ_URL, and see RabbitMQ's log",
        ),
    ),
    (
        ssl.SSLError,
        Trouble(
            "TLS fails: one side refuses the other's certificate, or has no TLS there",
            "check the port, cacertfile and certfile of RABBITMQ_URL",
            lasting=True,
        ),
    ),
    (
        gaierror,
        Trouble("there is no such host", "check the host in RABBITMQ_URL"),
    ),
    (
        ConnectionRefusedError,
        Trouble(
            "nothing listens there",
            "start RabbitMQ, or set RABBITMQ_URL to where it is",
        ),
    ),
    (
        TimeoutError,
        Trouble(
            "no answer in time",
            "it hangs, or a firewall drops what is sent: see RabbitMQ's log, restart"
            " it",
        ),
    ),
)

#: py-amqp's text if the other side closes before it has sent anything.
_HUNG_UP = "Server unexpectedly closed connection"
_STRANGER = Trouble(
    "the connection was closed without an answer",
    "it is starting or stopping, or the port of RABBITMQ_URL is another service's, or"
    " must be amqps://: see RabbitMQ's log",
)


def meaning(error: BaseException) -> Trouble:
    """Return the explanation of any error of a connection or channel."""
    chain = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if "blocked by the broker" in str(error):
        return _ALARM
    for each in chain:
        if isinstance(each, AMQPError) and (found := _meaning_of_reply(each)):
            return found
    for kind, found in _BELOW:
        if any(isinstance(each, kind) for each in chain):
            return found
    text = str(error) or type(error).__name__
    return _STRANGER if _HUNG_UP in text else Trouble(text, _LOG)


def trouble(error: BaseException) -> tuple[str, str]:
    """Return what is wrong and what to do; see `meaning`."""
    found = meaning(error)
    return found.text, found.fix


def _meaning_of_reply(error: AMQPError) -> Trouble | None:
    """Return the explanation of a broker's reply; None if it did not reply.

    The codes are constants of AMQP 0-9-1; RabbitMQ adds details in the text.
    """
    code = int(error.reply_code or 0)
    text = " ".join(str(error.reply_text).split())
    said = text.partition(" - ")[2] or text
    # A method of class connection, or none: the broker did not let us in.
    at_the_door = not error.method_sig or error.method_sig[0] in (0, 10)
    match code:
        case 403 if at_the_door:
            return _PASSWORD
        case 402 | 530 if at_the_door:
            return _not_let_in(said)
        case 403:
            return Trouble(
                f"the user has not the right: {said}",
                "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*', or less",
                lasting=True,
            )
        case 404:
            return Trouble(
                said, "oops-celery topology declare makes what is missing", lasting=True
            )
        case 405:
            return Trouble(said, "end the connection that has it")
        case 406 | 530 | 540:
            return Trouble(
                said, "oops-celery topology diff tells what differs", lasting=True
            )
        case 0:
            return None
    return Trouble(f"{said} ({code})", _LOG)


def _not_let_in(said: str) -> Trouble:
    # Compare the end: names of virtual hosts and users stand before it.
    if said.endswith("reached"):
        return Trouble(said, "close other connections, or raise the limit there")
    if said.endswith("down"):
        return Trouble(said, "rabbitmqctl restart_vhost, and see RabbitMQ's log")
    if said.endswith("not found"):
        return _VHOST
    if " refused" in said:
        return _VHOST_REFUSED
    return Trouble(said, "check the path of RABBITMQ_URL", lasting=True)


def in_a_line(error: BaseException, timeout: float) -> str:
    """Return what is wrong with a connection, and what to do, in one line.

    Args:
        error: The error of connecting or asking.
        timeout: Seconds that an answer was given.
    """
    text, fix = trouble(error)
    if (text, fix) == trouble(TimeoutError()):
        text = f"no answer within {timeout:g} s"
    return f"{text}; {fix}"
