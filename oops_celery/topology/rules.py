"""What RabbitMQ refuses in the queues of a topology file, or loses messages by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oops_celery.topology.entities import denied
from oops_celery.topology.wording import show

if TYPE_CHECKING:
    from oops_celery.topology.checks import Findings
    from oops_celery.topology.document import Path

#: What RabbitMQ does if these are 0.
_HARMS = {
    "x_max_length": "every message is dropped",
    "x_max_length_bytes": "every message is dropped",
    "x_message_ttl": "a message that no consumer waits for expires at once",
}


def check_queues(
    queues: list[tuple[int, dict[Any, Any]]],
    exchanges: list[tuple[int, dict[Any, Any]]],
    findings: Findings,
) -> None:
    """Note declarations that RabbitMQ refuses, or loses messages by.

    Args:
        queues: The queue entries that are mappings, with their numbers.
        exchanges: The same for exchanges.
        findings: Takes the problems.
    """
    names = {_if_text(queue.get("queue")) for _, queue in queues}
    passive = {
        _if_text(exchange.get("exchange")): exchange.get("passive") is True
        for _, exchange in exchanges
    }
    bound = {_if_text(each.get("exchange")) for each in _bindings(queues)}
    for index, queue in queues:
        path: Path = ("queues", index)
        _check_replicated(path, queue, findings)
        _check_strategy(path, queue, findings)
        for name, harm in _HARMS.items():
            if queue.get(name) == 0 and queue.get(name) is not False:
                text = f"0: {harm}; amqp-dispatcher took 0 for no limit: remove it"
                findings.warn((*path, name), text)
        for denied_key, why in denied(queue):
            if path not in findings.broken:
                findings.warn((*path, denied_key), why)
        exchange = queue.get("x_dead_letter_exchange")
        key = queue.get("x_dead_letter_routing_key")
        if exchange is None:
            _check_undirected(path, queue, findings)
        elif exchange == "" and isinstance(key, str) and key not in names:
            findings.warn(
                (*path, "x_dead_letter_routing_key"),
                f"{show(key)} is no queue of this file; if the broker has none either,"
                " dead letters are lost",
            )
        elif isinstance(exchange, str) and exchange:
            _check_dead_letter_exchange(path, exchange, passive, bound, findings)


def _bindings(queues: list[tuple[int, dict[Any, Any]]]) -> Iterator[dict[Any, Any]]:
    for _, queue in queues:
        bindings = queue.get("bindings")
        if isinstance(bindings, list):
            yield from (each for each in bindings if isinstance(each, dict))


def _if_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _check_replicated(path: Path, queue: dict[Any, Any], findings: Findings) -> None:
    kind = queue.get("x_queue_type")
    if kind not in ("quorum", "stream") or queue.get("passive") is True:
        return
    refused = {"durable": False, "exclusive": True, "auto_delete": True}
    for key, value in refused.items():
        if queue.get(key) is value:
            text = f"{show(value)}: RabbitMQ refuses it for a {kind} queue; remove it"
            findings.add((*path, key), text)


def _check_strategy(path: Path, queue: dict[Any, Any], findings: Findings) -> None:
    """See https://www.rabbitmq.com/docs/quorum-queues#dead-lettering."""
    if queue.get("x_dead_letter_strategy") == "at-least-once" and (
        queue.get("x_queue_type") != "quorum"
        or queue.get("x_overflow") != "reject-publish"
    ):
        findings.warn(
            (*path, "x_dead_letter_strategy"),
            "at-least-once needs x_queue_type: quorum and x_overflow: reject-publish;"
            " without them RabbitMQ dead-letters at most once",
        )


def _check_undirected(path: Path, queue: dict[Any, Any], findings: Findings) -> None:
    # A misspelt x_dead_letter_exchange is reported as that already.
    if path in findings.broken:
        return
    if queue.get("x_message_ttl") is not None:
        findings.warn(
            (*path, "x_message_ttl"),
            "expired messages are discarded; x_dead_letter_exchange says where they go",
        )
    if queue.get("x_dead_letter_routing_key") is not None:
        findings.warn(
            (*path, "x_dead_letter_routing_key"),
            "has no x_dead_letter_exchange, and RabbitMQ refuses such a queue; add one"
            ' ("" is the default exchange)',
        )


def _check_dead_letter_exchange(
    path: Path,
    exchange: str,
    exchanges: dict[str | None, bool],
    bound: set[str | None],
    findings: Findings,
) -> None:
    path = (*path, "x_dead_letter_exchange")
    if exchange not in exchanges and not exchange.startswith("amq."):
        findings.warn(
            path,
            f"{show(exchange)} is not declared in this file; if the broker has none,"
            " dead letters are lost",
        )
    # The bindings of a passive exchange, which others declare, are unknown here.
    elif exchanges.get(exchange) is False and exchange not in bound:
        findings.warn(
            path,
            f"no queue of this file is bound to {show(exchange)}: dead letters are"
            " lost; bind one",
        )
