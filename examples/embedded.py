"""A celeryconfig for trying out: the broker is a folder, ``./var/broker``.

One machine, no server, no safety: ``CELERY_CONFIG_MODULE=examples.embedded`` asks for
it. For real use set ``RABBITMQ_URL`` instead.
"""

from pathlib import Path

_FOLDER = Path("var/broker").absolute()
for _name in ("messages", "control", "processed"):
    (_FOLDER / _name).mkdir(parents=True, exist_ok=True)

OOPS_REPOSITORY = "sqlite:///var/oopses.db"
OOPS_BROKER_URL = "filesystem://"
OOPS_BROKER_TRANSPORT = "examples.folder_broker:Transport"
OOPS_BROKER_TRANSPORT_OPTIONS = {
    "data_folder_in": str(_FOLDER / "messages"),
    "data_folder_out": str(_FOLDER / "messages"),
    "control_folder": str(_FOLDER / "control"),
    "processed_folder": str(_FOLDER / "processed"),
    "polling_interval": 0.1,
}
