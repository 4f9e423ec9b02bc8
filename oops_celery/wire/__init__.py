"""A report as bytes and as a task message: pure functions, no connection."""

from oops_celery.errors import Undecodable
from oops_celery.wire.clean import MAX_DEPTH, cleaned
from oops_celery.wire.library import BSON_LIBRARY
from oops_celery.wire.report import (
    Encoded,
    decode,
    encode,
    peek,
    peek_time,
    task_id,
)
from oops_celery.wire.summary import summary
from oops_celery.wire.task import (
    ADOPTED,
    ADOPTED_CONTENT_TYPE,
    ADOPTED_MARK,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    MAX_TASK_ID,
    SERIALIZER,
)

__all__ = [
    "ADOPTED",
    "ADOPTED_CONTENT_TYPE",
    "ADOPTED_MARK",
    "BSON_LIBRARY",
    "CONTENT_ENCODING",
    "CONTENT_TYPE",
    "MAX_DEPTH",
    "MAX_TASK_ID",
    "SERIALIZER",
    "Encoded",
    "Undecodable",
    "cleaned",
    "decode",
    "encode",
    "peek",
    "peek_time",
    "summary",
    "task_id",
]
