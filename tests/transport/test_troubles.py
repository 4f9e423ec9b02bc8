"""What an error means: told by what the broker says, not by its class."""

from __future__ import annotations

import ssl
from socket import gaierror

import amqp
import pytest
from amqp.exceptions import error_for_code

from oops_celery.errors import Unavailable
from oops_celery.transport.troubles import meaning, trouble

OPEN, DECLARE = (10, 40), (50, 10)


@pytest.mark.parametrize(
    ("code", "said", "method", "expected", "lasting"),
    [
        (403, "ACCESS_REFUSED - Login was refused", (0, 0), "wrong user or", True),
        (403, "ACCESS_REFUSED - read to queue 'q'", DECLARE, "has not the right", True),
        (530, "NOT_ALLOWED - vhost gone not found", OPEN, "no such virtual", True),
        (530, "NOT_ALLOWED - vhost down not found", OPEN, "no such virtual", True),
        (402, "INVALID_PATH - no vhost", OPEN, "no vhost", True),
        (
            *(530, "NOT_ALLOWED - access to vhost '/' refused for user 'u'", OPEN),
            *("may not use this virtual host", True),
        ),
        (
            530,
            "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection"
            " limit (1) is reached",
            OPEN,
            "limit (1) is reached",
            False,
        ),
        (541, "INTERNAL_ERROR - vhost '/' is down", OPEN, "is down", False),
        (404, "NOT_FOUND - no queue 'q'", DECLARE, "no queue 'q'", True),
        (405, "RESOURCE_LOCKED - locked queue 'q'", DECLARE, "locked queue", False),
        (406, "PRECONDITION_FAILED - inequivalent", DECLARE, "inequivalent", True),
        (540, "NOT_IMPLEMENTED - prefetch_size!=0", (60, 10), "prefetch_size", True),
        (541, "INTERNAL_ERROR", (0, 0), "INTERNAL_ERROR (541)", False),
        (320, "CONNECTION_FORCED - shutdown", (0, 0), "shutdown (320)", False),
    ],
)
def test_an_answer_is_told_by_its_code_and_text(
    code: int, said: str, method: tuple[int, int], expected: str, lasting: bool
) -> None:
    for default in (amqp.ChannelError, amqp.exceptions.ConnectionError):
        error = error_for_code(code, said, method, default)
        found = meaning(error)
        assert expected in found.text
        assert found.lasting is lasting
        wrapped = Unavailable("no link")
        wrapped.__cause__ = error
        assert trouble(wrapped) == (found.text, found.fix)


@pytest.mark.parametrize(
    ("error", "expected", "lasting"),
    [
        (ssl.SSLCertVerificationError(1, "self-signed"), "certificate", True),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "TLS fails", True),
        (ssl.SSLEOFError(8, "EOF"), "TLS fails", False),
        (gaierror(-2, "Name or service not known"), "no such host", False),
        (ConnectionRefusedError(111, "refused"), "nothing listens", False),
        (TimeoutError("timed out"), "no answer in time", False),
        (OSError("Server unexpectedly closed connection"), "without an answer", False),
        (amqp.RecoverableConnectionError("lost"), "lost", False),
        (OSError(113, "No route to host"), "No route to host", False),
    ],
)
def test_what_is_below_amqp(error: BaseException, expected: str, lasting: bool) -> None:
    assert expected in meaning(error).text
    assert meaning(error).lasting is lasting
