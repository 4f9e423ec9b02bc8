"""The module ``bson``: PyMongo's, or the pure Python package of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson

if hasattr(bson, "encode"):
    #: The distribution that the module ``bson`` belongs to.
    BSON_LIBRARY = "pymongo"
    #: Ends the error for a body that this library cannot read.
    HINT = ""
    from bson import codec_options

    _OPTIONS: Any = codec_options.CodecOptions(tz_aware=True)
    # A time outside Python's calendar must not make a report unreadable.
    if hasattr(codec_options, "DatetimeConversion"):  # PyMongo 4.3
        _OPTIONS = _OPTIONS.with_options(
            datetime_conversion=codec_options.DatetimeConversion.DATETIME_AUTO
        )

    def dumps(document: Mapping[str, Any]) -> bytes:
        """Return a document as BSON; raises whatever the library raises."""
        return bytes(bson.encode(document))

    def loads(body: bytes) -> dict[str, Any]:
        """Return the document that BSON holds; raises whatever the library raises."""
        return bson.decode(body, _OPTIONS)  # type: ignore[no-any-return]

else:
    BSON_LIBRARY = "bson"
    HINT = (
        " (for the pure Python package bson, which cannot read all that PyMongo's "
        "writes: pip install --force-reinstall --no-deps pymongo, restart the worker, "
        "oops-celery dead replay)"
    )

    def dumps(document: Mapping[str, Any]) -> bytes:
        """Return a document as BSON; raises whatever the library raises."""
        return bson.dumps(document)  # type: ignore[no-any-return]

    def loads(body: bytes) -> dict[str, Any]:
        """Return the document that BSON holds; raises whatever the library raises."""
        return bson.loads(body)  # type: ignore[no-any-return]
