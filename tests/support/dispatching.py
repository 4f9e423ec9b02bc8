"""Topologies with `consumers:`, the notes of their consumers, and their messages."""

from __future__ import annotations

import amqp

from tests.support.node import Node
from tests.support.worker import Worker

#: The complete configuration example of amqp-dispatcher's page.
DISPATCHER = """
startup_handler: workers.startup:startup

queues:
  - queue: notify_mat_job
    durable: true
    auto_delete: false
    passive: true
    exclusive: false
    x_dead_letter_exchange: null
    x_dead_letter_routing_key: null
    x_max_length: null
    x_expires: null
    x_message_ttl: null
    bindings:
      - exchange: notify
        routing_key: transaction.*
      - exchange: notify
        routing_key: click.*

  - queue: notify_apsalar_job
    bindings:
      - exchange: notify
        routing_key: transaction.*
      - exchange: notify
        routing_key: click.*

consumers:
  - consumer: workers.module:Consumer
    consumer_count: 1
    queue: test_queue
    prefetch_count: 2
  - consumer: workers.module_2:Consumer
    consumer_count: 2
    queue: test_queue_2
    prefetch_count: 10
"""

#: Every queue of these tests.
QUEUES = ("work", "work.dead", "other", "test_queue", "test_queue_2")
NOTIFY_QUEUES = ("notify_mat_job", "notify_apsalar_job")

#: What the consumers of these tests write their lines with.
NOTE = """
import os, sys, time
def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    with open("notes", "ab", buffering=0) as file:
        file.write(line.encode())
"""

WORK = """
queues:
  - queue: work
    x_dead_letter_exchange: ""
    x_dead_letter_routing_key: work.dead
  - queue: work.dead
  - queue: other
consumers:
  - consumer: workers:Consumer
    queue: work
    consumer_count: 2
    prefetch_count: 10
"""


def notes(worker: Worker) -> list[str]:
    path = worker.folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def send(node: Node, queue: str, *bodies: bytes | str) -> None:
    with node.connect() as connection:
        channel = connection.channel()
        for body in bodies:
            channel.basic_publish(amqp.Message(body, delivery_mode=2), "", queue)
        channel.queue_declare(queue, passive=True)  # all have arrived
