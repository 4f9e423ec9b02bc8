"""`make test-protections`: each protection taken out, and its faults' tests must fail.

python -m tests.faults.protections --only confirm

A test that still passes then proves nothing about that protection.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parent.parent.parent

UNDER_LOAD = "test_under_load.py::test_a_fault_loses_nothing"


@dataclass(frozen=True)
class Protection:
    """What keeps reports safe, and what breaks without it.

    Args:
        name: What it is, in a line.
        edits: How to take it out: file, text, and what stands there instead.
        tests: The tests that must fail then, below ``tests/faults``.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


def under_load(*faults: str) -> tuple[str, ...]:
    return tuple(f"{UNDER_LOAD}[{fault}]" for fault in faults)


PROTECTIONS = (
    Protection(
        "acks_late: a report at work is the broker's until it is done",
        (("tasks/republish.py", "acks_late=True", "acks_late=False"),),
        (
            *under_load(
                "kill_worker",
                "kill_broker_and_worker",
                "kill_worker_while_repository_is_away",
            ),
            "test_two_workers.py::test_one_is_killed",
            "test_reports.py::test_a_report_at_work_when_the_broker_restarts",
        ),
    ),
    Protection(
        "what is prefetched is not acknowledged when it comes",
        (
            (
                "oops_celery/transport/acknowledger.py",
                "self._at_work[tag] = None",
                "self._channel.basic_ack(tag)",
            ),
            (
                "oops_celery/transport/acknowledger.py",
                "held, self._held = sorted(self._held), []",
                "held = []",
            ),
        ),
        (
            *under_load("kill_main_process", "stop_worker", "interrupt_worker"),
            "test_mix.py::test_a_random_mix_loses_nothing",
        ),
    ),
    Protection(
        "a batch that lost its process is done again, and a lost report is not dropped",
        (
            (
                "oops_celery/receiving/batches.py",
                "self._batches.ended(self, again=rest, alone=begun)",
                "self._batches.ended(self)",
            ),
            (
                "tasks/republish.py",
                "reject_on_worker_lost=True",
                "reject_on_worker_lost=False",
            ),
        ),
        under_load("kill_pool_process"),
    ),
    Protection(
        "reject_on_worker_lost: a report that was alone in its process comes again",
        (
            (
                "tasks/republish.py",
                "reject_on_worker_lost=True",
                "reject_on_worker_lost=False",
            ),
        ),
        ("test_reports.py::test_a_report_that_kills_its_process_is_parked",),
    ),
    Protection(
        "what may have killed the whole worker goes alone, and last",
        (
            (
                "oops_celery/receiving/batches.py",
                "(self._alone if redelivered else self._waiting)",
                "self._waiting",
            ),
        ),
        (
            "test_reports.py"
            "::test_a_report_that_kills_the_whole_worker_keeps_nobody_waiting",
        ),
    ),
    Protection(
        "what may have killed the whole worker waits a bit, in pools without batches",
        (
            (
                "oops_celery/receiving/delay.py",
                'if request.delivery_info["redelivered"]:',
                "if False:",
            ),
        ),
        tuple(
            f"test_reports.py::test_such_a_report_keeps_nobody_waiting_in_other_pools"
            f"[{pool}]"
            for pool in ("solo", "threads")
        ),
    ),
    Protection(
        "a lost connection, and the end of a worker, leave no message half done",
        (("oops_celery/receiving/worker.py", "self.pool_cls = Pool", "pass"),),
        tuple(
            f"test_losses.py::{test}"
            for test in (
                "test_what_is_half_read_when_the_connection_is_lost",
                "test_what_is_half_written_when_the_connection_is_lost",
                "test_the_end_of_a_worker_comes_after_what_is_half_written",
                "test_twelve_losses_while_processes_have_much_to_say",
            )
        ),
    ),
    Protection(
        "a report at work is told to its message that comes again",
        (
            (
                "oops_celery/receiving/batches.py",
                "report = self._lost.get(request.id) if redelivered else None",
                "report = None",
            ),
        ),
        tuple(
            "test_losses.py::test_a_report_at_work_when_the_connection_is_lost_is_done"
            f"_once[{losses}]"
            for losses in (1, 3)
        ),
    ),
    Protection(
        "a report is judged by its own processes",
        (
            (
                "oops_celery/receiving/request.py",
                "not (self._already_cancelled or _is_stopping())\n"
                "            and suspects.add(self.id) > 1",
                'self.delivery_info["redelivered"]',
            ),
        ),
        ("test_losses.py::test_an_innocent_report_is_not_judged_by_lost_connections",),
    ),
    Protection(
        "a report is judged at its second end, and not while the worker ends",
        (
            (
                "oops_celery/receiving/request.py",
                "not (self._already_cancelled or _is_stopping())\n"
                "            and suspects.add(self.id) > 1",
                "suspects.add(self.id) > 0",
            ),
        ),
        ("test_signals.py::test_supervisord_that_stops_the_group",),
    ),
    Protection(
        "a delivery limit that no network reaches",
        (
            (
                "oops_celery/topology/default.yml",
                "x_delivery_limit: 20000",
                "x_delivery_limit: 10",
            ),
        ),
        ("test_losses.py::test_a_network_that_flaps_parks_nothing",),
    ),
    Protection(
        "a worker waits for no answer of a connection that it leaves",
        (
            ("oops_celery/receiving/consumer.py", "connection.drop()", "pass"),
            (
                "oops_celery/receiving/consumer.py",
                "connection.limit_waits(STOP_TIMEOUT)",
                "pass",
            ),
        ),
        tuple(
            f"test_losses.py::{test}[to the {end}]"
            for test in (
                "test_a_frozen_network_is_a_lost_connection",
                "test_sigterm_while_the_network_is_frozen",
            )
            for end in ("broker", "worker")
        ),
    ),
    Protection(
        "a watchdog",
        (
            (
                "oops_celery/receiving/consumer.py",
                '"oops_celery.receiving.watchdog:Watchdog",',
                "",
            ),
        ),
        ("test_losses.py::test_the_watchdog_takes_a_new_connection",),
    ),
    Protection(
        "acks_on_timeout=False: what hangs comes again",
        (("tasks/republish.py", "acks_on_timeout=False", "acks_on_timeout=True"),),
        ("test_reports.py::test_a_time_limit_ends_what_hangs",),
    ),
    Protection(
        "a refused report is retried or parked before it is acknowledged",
        (("tasks/republish.py", "        step(self, body, failure)", "        pass"),),
        (
            *under_load(
                "file_for_repository",
                "publisher_says_full",
                "publisher_says_read_only",
                "kill_worker_while_repository_is_away",
            ),
            "test_file_system.py::test_a_full_file_system",
            "test_file_system.py::test_a_read_only_file_system",
        ),
    ),
    Protection(
        "what can be neither retried nor parked goes back to its queue",
        (("tasks/republish.py", "requeue=True) from", "requeue=False) from"),),
        under_load("delete_retry_queue"),
    ),
    Protection(
        "a limit on what a worker prefetches",
        (
            (
                "oops_celery/receiving/worker.py",
                "self.prefetch_multiplier = 2 * MAX_REPORTS",
                "self.prefetch_multiplier = 0",
            ),
        ),
        under_load("slow_repository"),
    ),
    Protection(
        "heartbeats: the broker drops a worker that does not answer",
        (
            (
                "oops_celery/broker_url.py",
                'broker["broker_heartbeat"] = heartbeat_of(',
                'broker["broker_heartbeat"] = 0 * heartbeat_of(',
            ),
        ),
        (
            *under_load("freeze_worker_until_dropped"),
            "test_two_workers.py::test_one_is_frozen_until_the_broker_drops_it",
        ),
    ),
    Protection(
        "an id is returned when the broker has confirmed the report",
        (
            (
                "oops_celery/transport/link.py",
                "self.raw.confirm_publish = self.confirm",
                "self.raw.confirm_publish = False",
            ),
        ),
        (
            *under_load("kill_broker"),
            "test_cluster.py::test_a_cluster_that_loses_two_nodes_takes_nothing"
            "_and_loses_nothing",
        ),
    ),
    Protection(
        "acknowledgements belong to a connection, and end with it",
        (
            (
                "oops_celery/receiving/consumer.py",
                "self._acknowledger = Acknowledger(connection.default_channel)",
                "self._acknowledger = self.__dict__.get('_acknowledger') or "
                "Acknowledger(connection.default_channel)",
            ),
        ),
        under_load("restart_broker", "reset_connections"),
    ),
    Protection(
        "an id is returned when the report was routed to a queue",
        (
            (
                "oops_celery/transport/link.py",
                '{"mandatory": self.confirm, **options}',
                '{"mandatory": False, **options}',
            ),
        ),
        under_load("delete_queue"),
    ),
    Protection(
        "every wait of a publisher has a limit",
        (
            (
                "oops_celery/transport/link.py",
                '{"timeout": timeout, "confirm_timeout": timeout}',
                '{"confirm_timeout": None}',
            ),
            (
                "oops_celery/transport/link.py",
                '"read_timeout": timeout',
                '"read_timeout": None',
            ),
            (
                "oops_celery/transport/link.py",
                '"write_timeout": timeout',
                '"write_timeout": None',
            ),
            (
                "oops_celery/transport/link.py",
                "self.raw.on_blocked = self._on_blocked",
                "pass",
            ),
        ),
        (
            *under_load("freeze_broker", "memory_alarm", "disk_alarm"),
            "test_cluster.py::test_a_cluster_that_loses_a_machine_loses_no_report",
        ),
    ),
    Protection(
        "a channel that was nacked is not used again",
        (
            (
                "oops_celery/transport/link.py",
                "self.nacked = True",
                "self.nacked = False",
            ),
        ),
        ("test_cluster.py::test_a_cluster_that_loses_its_leaders_loses_no_report",),
    ),
    Protection(
        "max_size: what is too large is not sent",
        (
            (
                "oops_celery/publishing/publisher.py",
                "if len(encoded.body) > self.max_size:",
                "if False:",
            ),
        ),
        ("test_reports.py::test_a_report_of_20_mb_goes_to_the_fallback",),
    ),
    Protection(
        "pauses are measured by the monotonic clock",
        (("oops_celery/publishing/publisher.py", "time.monotonic()", "time.time()"),),
        ("test_reports.py::test_time_jumps",),
    ),
)

#: Tests for which there is nothing of ours to take out.
WITHOUT = {
    **dict.fromkeys(
        under_load("freeze_worker"), "RabbitMQ holds what the worker does not take"
    ),
    **dict.fromkeys(under_load("repository_gone"), "the folder that is needed is made"),
    **dict.fromkeys(
        (
            f"test_signals.py::test_sigterm_to_all_processes[{signals}]"
            for signals in ("once", "twice", "twice_at_once", "processes_first")
        ),
        "RabbitMQ delivers again what was at work when the connection ended",
    ),
    **dict.fromkeys(
        (
            "test_losses.py::test_sixty_losses",
            *(
                f"test_losses.py::test_twelve_losses[{kind}]"
                for kind in (
                    *("batches", "one by one", "threads", "solo", "gevent", "eventlet"),
                )
            ),
        ),
        "by chance, of what the other tests there show one by one",
    ),
    "test_cluster.py::test_the_commands_for_watching_say_what_is_wrong": "of docs/",
    "test_cluster.py::test_a_node_that_comes_later_gets_its_copies": "of docs/",
}


def copy_without(protection: Protection, home: Path) -> Path:
    """Copy the project to a folder, take the protection out; return its Python."""
    for name in ("oops_celery", "tasks", "tests"):
        shutil.copytree(ROOT / name, home / name)
    (home / "docs").symlink_to(ROOT / "docs")
    shutil.copy(ROOT / "pyproject.toml", home)
    (home / "oops_celery/tasks").symlink_to(home / "tasks")
    for file, text, instead in protection.edits:
        path = home / file
        path.write_text(path.read_text().replace(text, instead))
    venv.create(home / ".venv")
    (packages,) = (home / ".venv").glob("lib/python*/site-packages")
    ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (packages / "project.pth").write_text(f"{home}\n{ours}\n")
    python = home / ".venv/bin/python"
    celery = python.with_name("celery")
    celery.write_text(f"#!{python}\nfrom celery.__main__ import main\nmain()\n")
    celery.chmod(0o755)
    return python


def fails(python: Path, test: str) -> tuple[bool, str]:
    """Run a test; say whether it failed, and by which error, else what it printed."""
    home = python.parent.parent.parent
    done = subprocess.run(
        [python, "-m", "pytest", "-n", "0", f"tests/faults/{test}"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # One that cannot even be run has not failed.
    last = done.stdout.rstrip().rpartition("\n")[2]
    if "1 failed" not in last or "error" in last:
        return False, done.stdout[-3000:]
    (error, *_) = re.findall(r"^E +(.+)$", done.stdout, re.MULTILINE)
    return True, error[:100]


def chosen(only: str) -> Iterator[tuple[Protection, str]]:
    for protection in PROTECTIONS:
        for test in protection.tests:
            if only in protection.name or only in test:
                yield protection, test


def main() -> int:
    parser = argparse.ArgumentParser(description="Take protections out, one by one.")
    parser.add_argument("--only", default="", help="those with this text in their name")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    pairs = list(chosen(options.only))
    passed = []
    for number, (protection, test) in enumerate(pairs, 1):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            failed, output = fails(copy_without(protection, Path(folder)), test)
        seconds = time.monotonic() - started
        verdict = "fails" if failed else "STILL PASSES, or cannot be run"
        console.print(f"{number:2}/{len(pairs)} {seconds:4.0f} s  {verdict}: {test}")
        console.print(f"           without: {protection.name}")
        console.print(f"           {output}")
        if not failed:
            passed.append(test)
    console.print(f"{len(pairs) - len(passed)} of {len(pairs)} fail as they must")
    return 1 if passed or not pairs else 0


if __name__ == "__main__":
    sys.exit(main())
