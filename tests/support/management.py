"""RabbitMQ's management API on a test's own node."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from rabbitfixture.server import RABBITBIN, allocate_ports

from tests.support import Node, eventually

#: The management API of each node that has it.
_urls: dict[str, str] = {}


def management_url(node: Node) -> str:
    """Return where a node's management API is; switch it on the first time."""
    if node.host not in _urls:
        (port,) = allocate_ports("localhost")
        options = f'[{{port, {port}}}, {{ip, "127.0.0.1"}}]'
        node.ctl(
            "eval",
            f"application:set_env(rabbitmq_management, tcp_config, {options},"
            " [{persistent, true}]).",
        )
        name = node.ctl("eval", "node().").strip().strip("'")
        subprocess.run(
            [f"{RABBITBIN}/rabbitmq-plugins", "-n", name, "enable"]
            + ["rabbitmq_management"],
            check=True,
            # HOME has the cookie. Debian's 4.0 takes its default folders of plugins, a
            # list, for one folder, which is missing.
            env={**os.environ, "HOME": node.home, "RABBITMQ_PLUGINS_DIR": _plugins()},
            capture_output=True,
            timeout=120,
        )
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(url))
        _urls[node.host] = url
    return _urls[node.host]


def _plugins() -> str:
    (folder,) = Path(RABBITBIN).parent.glob("lib/rabbitmq_server-*/plugins")
    return str(folder)


def _answers(url: str) -> bool:
    with suppress(OSError):
        try:
            with urlopen(url, timeout=120):
                return True
        except HTTPError:
            return True
    return False
