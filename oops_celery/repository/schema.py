"""The tables of the database, for SQLite and PostgreSQL alike.

`migrations` makes them; a test compares both.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

#: The newest revision in `migrations`.
HEAD = "0005"


class UTC(TypeDecorator[datetime]):
    """A time in UTC. SQLite has no time zones: there it is a text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> Any:
        """Give the database a time in UTC."""
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:
        """Return a time with its zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            return value.replace(tzinfo=timezone.utc)  # type: ignore[no-any-return]
        return value.astimezone(timezone.utc)  # type: ignore[no-any-return]


#: Compared byte by byte, so that the beginning of an id finds it in an index.
BYTEWISE = String().with_variant(Text(collation="C"), "postgresql")

#: A number that the database chooses; SQLite does so for an INTEGER alone.
NUMBER = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

#: One row for each report. A report without a time of its own has that of its arrival.
#: PostgreSQL has it partitioned by the day of `time`: see `migrations`. Said here, it
#: would have SQLAlchemy import that dialect, which takes 30 ms of each command.
report = Table(
    "report",
    metadata,
    Column("id", BYTEWISE, primary_key=True),
    Column("time", UTC, primary_key=True),
    Column("group_id", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("reporter", Text, nullable=False),
    Column("value", Text, nullable=False),
    # Of the message's body: the same message again is the same report.
    Column("digest", LargeBinary, nullable=False),
    # Bytes of the report as it came.
    Column("size", Integer, nullable=False),
    Column("compressed", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("report_time", "time"),
    Index("report_group_time", "group_id", "time"),
    Index("report_type_time", "type", "time"),
)

#: Reports of the same failure; see `fingerprint`.
report_group = Table(
    "report_group",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("fingerprint", String, nullable=False, unique=True),
    # The version of the rule that made the fingerprint.
    Column("rule", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("topic", Text, nullable=False),
    # file:function of the innermost frame of the application's own code.
    Column("place", Text, nullable=False),
    # The normalised value, and a real one.
    Column("value", Text, nullable=False),
    Column("example_value", Text, nullable=False),
    # The id of its latest report.
    Column("example", String, nullable=False),
    Column("first_seen", UTC, nullable=False),
    Column("last_seen", UTC, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("resolved_at", UTC),
    Index("report_group_last_seen", "last_seen"),
)

#: The number of reports of a group in an hour: hours since 1970-01-01 00:00 UTC.
group_hour = Table(
    "group_hour",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
    Index("group_hour_hour", "hour"),
)

#: The same by day, since 1970-01-01: a month of 200 groups has 6,000 rows, not 144,000.
group_day = Table(
    "group_day",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
    Index("group_day_day", "day"),
)

#: What is done once in a while, by one process at a time, and when it was begun last.
job = Table(
    "job",
    metadata,
    Column("name", String, primary_key=True),
    Column("begun", UTC, nullable=False),
)

#: One row for each message that nobody could process, as it came. The bodies are last,
#: so that SQLite reads the others without them.
dead_letter = Table(
    "dead_letter",
    metadata,
    # In the order of filing; never given again, so that it names one message.
    Column("number", NUMBER, primary_key=True),
    # The queue of dead letters that it was in.
    Column("queue", BYTEWISE, nullable=False),
    # Tells this message from all others: the same one again is not filed twice.
    Column("key", LargeBinary, nullable=False),
    Column("id", BYTEWISE, nullable=False),
    Column("is_report", Boolean, nullable=False),
    Column("type", Text, nullable=False),
    Column("time", UTC),
    Column("reason", Text, nullable=False),
    # The reason with placeholders for its variable parts.
    Column("reason_group", Text, nullable=False),
    Column("attempts", BigInteger),
    Column("came_from", Text),
    Column("first_failed_at", UTC),
    # When it was parked, or else filed.
    Column("parked_at", UTC, nullable=False),
    Column("parked_by", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("traceback", Text, nullable=False),
    # Its headers and properties, as an AMQP table.
    Column("envelope", LargeBinary, nullable=False),
    Column("compressed", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("queue", "key", name="dead_letter_once"),
    Index("dead_letter_id", "id"),
    Index("dead_letter_parked_at", "parked_at"),
    sqlite_autoincrement=True,
)
