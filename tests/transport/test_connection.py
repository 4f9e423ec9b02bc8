"""RABBITMQ_URL: TLS, and several hosts."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from tests.support import Node, Worker, environment, eventually

PROGRAM = """
    import oops_celery
    print(oops_celery.publisher({"k": 1}))
"""
PUBLISHED = "['OOPS-f9082d518031065d1e948548a66a4a05']\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(broker: Node, authority: trustme.CA) -> Iterator[Callable[[str], int]]:
    """Put a TLS port, with a certificate for a name, before the broker."""
    servers: list[socket.socket] = []

    def start(name: str) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=serve, args=(server, context), daemon=True).start()
        return int(server.getsockname()[1])

    def serve(server: socket.socket, context: ssl.SSLContext) -> None:
        with suppress(OSError):
            while True:
                plain, _ = server.accept()
                threading.Thread(
                    target=forward, args=(plain, context), daemon=True
                ).start()

    def forward(plain: socket.socket, context: ssl.SSLContext) -> None:
        with suppress(OSError):
            near = context.wrap_socket(plain, server_side=True)
            far = socket.create_connection(("localhost", broker.port))
            for source, target in ((near, far), (far, near)):
                threading.Thread(
                    target=copy, args=(source, target), daemon=True
                ).start()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.close()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def test_amqps_with_a_private_authority(
    tls: Callable[[str], int], ca_file: Path, run: Callable[..., str]
) -> None:
    port = tls("localhost")
    url = f"amqps://guest:guest@localhost:{port}/?cacertfile={ca_file}"
    assert run(PROGRAM, RABBITMQ_URL=url) == PUBLISHED


def test_amqps_to_an_unknown_authority_is_refused(
    tls: Callable[[str], int], run: Callable[..., str]
) -> None:
    url = f"amqps://guest:guest@localhost:{tls('localhost')}/"
    assert run(PROGRAM, RABBITMQ_URL=url) == "[]\n"
    assert run(PROGRAM, RABBITMQ_URL=f"{url}?verify=verify_none") == PUBLISHED


def test_amqps_to_a_wrong_host_name_is_refused(
    tls: Callable[[str], int], ca_file: Path, run: Callable[..., str]
) -> None:
    port = tls("another.example")
    url = f"amqps://guest:guest@localhost:{port}/?cacertfile={ca_file}"
    assert run(PROGRAM, RABBITMQ_URL=url) == "[]\n"


def test_amqps_with_several_hosts_checks_each_for_its_own_name(
    tls: Callable[[str], int], ca_file: Path, run: Callable[..., str]
) -> None:
    bad, good = tls("another.example"), tls("127.0.0.1")
    url = f"amqps://guest:guest@localhost:{bad},127.0.0.1:{good}/?cacertfile={ca_file}"
    for _ in range(4):  # in whichever order they are tried
        assert run(PROGRAM, RABBITMQ_URL=url) == PUBLISHED


def test_a_worker_over_amqps(
    tls: Callable[[str], int],
    ca_file: Path,
    run: Callable[..., str],
    worker: Callable[..., Worker],
) -> None:
    port = tls("localhost")
    url = f"amqps://guest:guest@localhost:{port}/?cacertfile={ca_file}"
    started = worker("-c", "1", RABBITMQ_URL=url)
    assert run(PROGRAM, RABBITMQ_URL=url) == PUBLISHED
    eventually(started.files)


def test_a_worker_goes_on_to_the_host_that_is_there(
    broker: Node, run: Callable[..., str], worker: Callable[..., Worker]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    url = f"amqp://guest:guest@127.0.0.1:{dead},{broker.host},127.0.0.1:{dead}/"
    started = worker("-c", "1", RABBITMQ_URL=url)
    assert run(PROGRAM, RABBITMQ_URL=url) == PUBLISHED
    eventually(started.files)


@pytest.mark.parametrize("what", ["stats", "conf", "report", "active_queues"])
def test_a_worker_tells_about_itself_and_not_the_password(
    broker: Node, worker: Callable[..., Worker], what: str
) -> None:
    """To ``celery inspect`` and to Flower, also with several hosts."""
    broker.ctl("add_user", "somebody", "s3cr3t")
    broker.ctl("set_permissions", "somebody", ".*", ".*", ".*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    url = f"amqp://somebody:s3cr3t@127.0.0.1:{dead},{broker.host}/"
    started = worker("-c", "1", RABBITMQ_URL=url)
    celery = Path(sys.executable).with_name("celery")
    try:
        told = subprocess.run(
            [celery, "-A", "oops_celery", "inspect", what, "-t", "20", "-d"]
            + ["w@" + socket.gethostname()],
            env=environment(RABBITMQ_URL=broker.url),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        started.kill()
        broker.ctl("delete_user", "somebody")
    assert told.returncode == 0, told.stderr
    assert "OK" in told.stdout
    assert "s3cr3t" not in told.stdout + started.text()


def test_a_worker_waits_for_the_broker_as_long_as_it_takes(tmp_path: Path) -> None:
    """Celery's own limit is 100 tries, each host counted: here one round would do."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    hosts = ",".join([f"127.0.0.1:{dead}"] * 120)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("celery"),
                *("-A", "oops_celery", "worker", "-c", "1"),
            ],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=f"amqp://guest:guest@{hosts}/"),
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: b"trying again" in log.read_bytes() or process.poll())
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def test_the_heartbeat_that_is_asked_for_is_used(
    broker: Node, worker: Callable[..., Worker]
) -> None:
    worker("-c", "1", RABBITMQ_URL=f"{broker.url}?heartbeat=17")
    assert "17" in broker.ctl("list_connections", "timeout").split()
