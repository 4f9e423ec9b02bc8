"""amqp-dispatcher's module names, for consumers that import them.

A program makes them importable before its consumers are imported, for example in the
module of its startup handler, or in a ``sitecustomize.py``:

    import oops_celery.dispatcher.compat

    oops_celery.dispatcher.compat.install()

After that ``from amqpdispatcher.amqp_proxy import AMQPProxy`` and ``from
amqpdispatcher.message import Message`` mean our classes. An installed amqp-dispatcher
is left alone.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from oops_celery.dispatcher.message import Message
from oops_celery.dispatcher.proxy import Proxy

#: The content of the modules, by name.
MODULES: dict[str, dict[str, Any]] = {
    "amqpdispatcher": {"__version__": "1.2.1"},
    "amqpdispatcher.amqp_proxy": {"AMQPProxy": Proxy},
    "amqpdispatcher.message": {"Message": Message, "DeliveryInfo": dict},
}


def install() -> None:
    """Make amqp-dispatcher's names importable in this process.

    Raises:
        RuntimeError: amqp-dispatcher itself is installed here.
    """
    package = sys.modules.get("amqpdispatcher")
    if package is not None and getattr(package, "__oops_celery__", False):
        return
    if package is not None or find_spec("amqpdispatcher") is not None:
        raise RuntimeError(
            "amqp-dispatcher is installed, and keeps its names: uninstall it first, or "
            "leave install() out"
        )
    for name, names in MODULES.items():
        module = ModuleType(name, "amqp-dispatcher's names, by oops-celery.")
        module.__dict__.update(names, __oops_celery__=True)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
        else:
            module.__path__ = []
