"""What the tests share: a private RabbitMQ node, real workers, real folders."""

from tests.support.installing import install
from tests.support.node import Node, start_node
from tests.support.project import PACKAGED, QUICK_TOPOLOGY, ROOT, environment
from tests.support.waiting import PATIENCE, eventually
from tests.support.worker import Worker

__all__ = [
    "PACKAGED",
    "PATIENCE",
    "QUICK_TOPOLOGY",
    "ROOT",
    "Node",
    "Worker",
    "environment",
    "eventually",
    "install",
    "start_node",
]
