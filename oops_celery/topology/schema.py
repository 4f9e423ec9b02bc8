"""The schema of a topology file: its keys and their values.

The keys are amqp-dispatcher's, and every queue argument of RabbitMQ 3.10 to 4.3
(https://www.rabbitmq.com/docs/queues#optional-arguments): ``x-message-ttl`` is written
``x_message_ttl``. The limits are those at which RabbitMQ refuses a queue.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator as Check
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic import BeforeValidator as Before

from oops_celery.topology.wording import did_you_mean, kind, show

#: Bytes of a name or a routing key: a short string of AMQP 0-9-1.
MAX_SHORT_STRING = 255
#: Milliseconds of RabbitMQ's longest TTL: ten years.
MAX_MILLISECONDS = 315_360_000_000
#: Largest number of AMQP 0-9-1.
MAX_LONG = 2**63 - 1
#: Bytes of an ``arguments`` table, which must fit into a frame (131,072 in RabbitMQ).
MAX_TABLE = 65_536
#: Levels of a file. It needs five; libyaml overruns its stack at some ten thousand.
MAX_DEPTH = 50

EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")


def _short_string(text: str) -> str:
    size = len(text.encode())
    if size > MAX_SHORT_STRING:
        raise ValueError(f"has {size} bytes; AMQP takes at most {MAX_SHORT_STRING}")
    return text


def _name(text: str) -> str:
    if not text:
        raise ValueError("is empty; give it a name")
    return _short_string(text)


def _source(text: str) -> str:
    if not text:
        raise ValueError(
            "is the default exchange, which each queue is bound to by its name already;"
            " remove this binding"
        )
    return _short_string(text)


def _own_name(text: str) -> str:
    if text.startswith("amq."):
        raise ValueError(
            f"{show(text)}: names that begin with amq. are the broker's; take another"
            " (a binding may name an exchange of the broker's, undeclared)"
        )
    return _name(text)


def _exchange_type(text: str) -> str:
    if text in EXCHANGE_TYPES or text.startswith("x-"):
        return text
    raise ValueError(
        f"{show(text)} is not one of {', '.join(EXCHANGE_TYPES)},"
        f" or a plugin's x-...{did_you_mean(text, EXCHANGE_TYPES)}"
    )


def is_target(text: str) -> bool:
    """Return whether a text has the form ``package.module:name``."""
    module, colon, name = text.partition(":")
    parts = (*module.split("."), name)
    return bool(colon) and all(part.isidentifier() for part in parts)


def _target(text: str) -> str:
    if is_target(text):
        return text
    module, dot, name = text.rpartition(".")
    dotted = f"{module}:{name}"
    hint = f"; did you mean {dotted}?" if dot and is_target(dotted) else ""
    raise ValueError(f"{show(text)} is not of the form package.module:name{hint}")


def _age(text: str) -> str:
    if re.fullmatch(r"0*[1-9][0-9]*[YMDhms]", text):
        return text
    raise ValueError(
        f"{show(text)} is no age; write a number and one of Y, M, D, h, m, s: 7D"
    )


def _table(table: dict[str, Any]) -> dict[str, Any]:
    """Check that AMQP can send a table. Aliases may have made it deep, or a circle."""
    size, waiting = 0, [(table, 0)]
    while waiting:
        value: Any
        value, depth = waiting.pop()
        size += _table_value(value)
        if size > MAX_TABLE or depth > MAX_DEPTH:
            raise ValueError(
                f"is too large; at most {MAX_TABLE} bytes, {MAX_DEPTH} levels"
            )
        if isinstance(value, dict):
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list):
            waiting.extend((each, depth + 1) for each in value)
    return table


def _table_value(value: Any) -> int:
    """Return the approximate bytes of a value in a table, without its content."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key in it is not text; put it in quotes")
        return 8 + sum(len(_short_string(key)) for key in value)
    if isinstance(value, str | bytes):
        return 8 + len(value)
    if isinstance(value, int) and not -MAX_LONG <= value <= MAX_LONG:
        raise ValueError(f"{show(value)} in it has more than 64 bits")
    if not isinstance(value, list | int | float | None):
        raise ValueError(f"{show(value)} in it is {kind(value)}; quote it")
    return 8


def _truth(value: Any) -> Any:
    """Accept amqp-dispatcher's forms of true and false, if they are clear."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "yes", "on"):
        return True
    if isinstance(value, str):  # there, any text was true
        raise ValueError(
            f"{show(value)} is text, which amqp-dispatcher took for true; write true or"
            " false, without quotes"
        )
    return value


def _set(value: Any) -> Any:
    if value is False:
        raise ValueError(
            "false is no value for it; remove it (amqp-dispatcher left it out)"
        )
    return value


def _no_zero(value: Any) -> Any:
    if _is_number(value) and value == 0:
        raise ValueError(
            "0: RabbitMQ refuses it; remove it (amqp-dispatcher left it out)"
        )
    return value


def _some(value: Any) -> Any:
    if _is_number(value) and value == 0:
        raise ValueError("0: nothing would ever be consumed; write 1, or remove this")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Truth = Annotated[bool, Before(_truth)]
Name = Annotated[str, Check(_name)]
Source = Annotated[str, Check(_source)]
OwnName = Annotated[str, Check(_own_name)]
ShortString = Annotated[str, Check(_short_string)]
Target = Annotated[str, Check(_target)]
Table = Annotated[dict[str, Any], Check(_table)]
Size = Annotated[int, Field(ge=0, le=MAX_LONG)]
Members = Annotated[int, Field(ge=1, le=MAX_LONG)]
Milliseconds = Annotated[int, Field(ge=0, le=MAX_MILLISECONDS)]
Period = Annotated[int, Field(ge=1, le=MAX_MILLISECONDS), Before(_no_zero)]
Segment = Annotated[int, Field(ge=0, le=3_000_000_000)]
Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
MasterLocator = Literal["client-local", "min-masters", "random"]
LeaderLocator = Literal[
    "client-local", "balanced", "random", "least-leaders", "min-masters"
]


class Entry(BaseModel):
    """A mapping in the file; ``null`` means that the key is not set."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_set(cls, entry: Any) -> Any:
        if not isinstance(entry, dict) or None not in entry.values():
            return entry
        known = cls.model_fields
        return {k: v for k, v in entry.items() if v is not None or k not in known}


class ExchangeEntry(Entry):
    """One of ``exchanges:``."""

    exchange: OwnName
    type: Annotated[str, Check(_exchange_type)] = "direct"
    durable: Truth = True
    auto_delete: Truth = False
    internal: Truth = False
    passive: Truth = False
    arguments: Table = {}


class BindingEntry(Entry):
    """One of the ``bindings:`` of a queue."""

    exchange: Source
    routing_key: ShortString = ""
    arguments: Table = {}


class QueueEntry(Entry):
    """One of ``queues:``."""

    queue: OwnName
    durable: Truth = True
    auto_delete: Truth = False
    exclusive: Truth = False
    passive: Truth = False
    file_dead_letters: Truth = False
    bindings: list[BindingEntry] = []

    @field_validator("*", mode="before")
    @classmethod
    def _false_is_no_value(cls, value: Any, info: ValidationInfo) -> Any:
        is_argument = str(info.field_name).startswith("x_")
        return _set(value) if is_argument and info.field_name not in TRUTHS else value

    x_queue_type: Literal["classic", "quorum", "stream"] | None = None
    x_message_ttl: Milliseconds | None = None
    x_expires: Period | None = None
    x_max_length: Size | None = None
    x_max_length_bytes: Size | None = None
    x_overflow: Overflow | None = None
    x_dead_letter_exchange: ShortString | None = None
    x_dead_letter_routing_key: ShortString | None = None
    x_dead_letter_strategy: Literal["at-most-once", "at-least-once"] | None = None
    x_single_active_consumer: bool | None = None
    x_consumer_timeout: Period | None = None
    x_consumer_disconnected_timeout: Milliseconds | None = None
    x_queue_leader_locator: LeaderLocator | None = None
    # Classic queues.
    x_max_priority: Annotated[int, Field(ge=0, le=255)] | None = None
    x_queue_mode: Literal["default", "lazy"] | None = None
    x_queue_version: Annotated[int, Field(ge=1, le=2)] | None = None
    x_queue_master_locator: MasterLocator | None = None
    # Quorum queues. A delivery limit of -1 means none.
    x_delivery_limit: Annotated[int, Field(ge=-1, le=MAX_LONG)] | None = None
    x_quorum_initial_group_size: Members | None = None
    x_quorum_target_group_size: Members | None = None
    x_max_in_memory_length: Size | None = None
    x_max_in_memory_bytes: Size | None = None
    x_delayed_retry_type: Literal["all", "failed", "returned", "disabled"] | None = None
    x_delayed_retry_min: Milliseconds | None = None
    x_delayed_retry_max: Milliseconds | None = None
    # Streams.
    x_max_age: Annotated[str, Check(_age)] | None = None
    x_stream_max_segment_size_bytes: Segment | None = None
    x_stream_filter_size_bytes: Annotated[int, Field(ge=16, le=255)] | None = None
    x_initial_cluster_size: Members | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the queue arguments by RabbitMQ's names; values as written."""
        return {
            QUEUE_ARGUMENTS[key]: value
            for key, value in self.__dict__.items()
            if value is not None and key in QUEUE_ARGUMENTS
        }


#: Arguments that may be false.
TRUTHS = ("x_single_active_consumer",)

#: RabbitMQ's name of each key: ``x_message_ttl`` is ``x-message-ttl``.
QUEUE_ARGUMENTS = {
    key: key.replace("_", "-") for key in QueueEntry.model_fields if key[:2] == "x_"
}


class ConsumerSettings(Entry):
    """One of ``consumers:``."""

    consumer: Target
    queue: Name
    consumer_count: Annotated[int, Field(ge=1, le=MAX_LONG), Before(_some)] = 1
    # AMQP sends it as 16 bits; 0 means no limit.
    prefetch_count: Annotated[int, Field(ge=0, le=65_535)] = 1
    # Run each message in a pool process, not in the worker's own.
    prefork: Truth = False


class File(Entry):
    """The file. Its entries are checked one by one: a bad one hides no other."""

    startup_handler: Target | None = None
    exchanges: list[Any] = []
    queues: list[Any] = []
    consumers: list[Any] = []
