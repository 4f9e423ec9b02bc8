"""A link and a fork: the child leaves the parent's connections alone."""

from __future__ import annotations

import amqp
import pytest

from oops_celery.transport.link import open_link
from tests.support import Node


@pytest.mark.parametrize("dropped", [True, False])
def test_a_forked_process_opens_no_connection(broker: Node, dropped: bool) -> None:
    """py-amqp connects when a connection that is closed is asked for its transport."""
    link = open_link(amqp.Connection(broker.url.split("@")[1].strip("/")), True, 60)
    try:
        if dropped:
            link.drop()
        else:
            file = link.raw.transport.sock.fileno()
            assert file >= 0
        link.forget()
        assert not dropped or link.raw._transport is None
        assert dropped or link.raw.transport.sock.fileno() == -1
    finally:
        link.drop()
