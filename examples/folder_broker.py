"""kombu's broker in a folder, where a message appears once it is whole.

kombu's own writes into the file that readers look for: one that is quick takes an empty
file, and ends with an error.
"""

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """A channel that writes each message under another name first."""

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        file = Path(self.data_folder_out, name)
        part = file.with_suffix(".part")
        part.write_text(dumps(payload))
        part.rename(file)


class Transport(filesystem.Transport):
    """The transport of `examples.embedded`."""

    Channel = Channel
