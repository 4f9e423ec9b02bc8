"""``oops-celery schema``: the JSON Schema of a topology file, for editors."""

from __future__ import annotations

import json
from typing import Any

import click

#: Descriptions for editors of keys whose names do not explain them.
DESCRIPTIONS = {
    "startup_handler": "package.module:function, called once a worker",
    "exchanges": "Exchanges to declare; what a binding alone names must exist",
    "queues": "Queues to declare, with their bindings",
    "consumers": "Consumer classes that a worker runs",
    "exchange": "Name of the exchange",
    "queue": "Name of the queue",
    "type": "direct, fanout, topic, headers, or a plugin's x-...",
    "durable": "Is there again after a restart of the broker",
    "auto_delete": "Goes away with the last that used it",
    "internal": "Fed by other exchanges only",
    "passive": "Must be there already; nothing is created",
    "file_dead_letters": "Its messages are dead letters, for the worker's database",
    "exclusive": "Only for the connection that declared it, and gone with it",
    "arguments": "Further arguments, under RabbitMQ's names",
    "bindings": "Exchanges that the queue gets messages from",
    "routing_key": "Which messages of the exchange; in a topic, * and # are wildcards",
    "consumer": "package.module:Class, with the method consume and perhaps shutdown",
    "consumer_count": "Instances of the consumer at work at once",
    "prefork": "Each message in a process of the pool, not in the worker's own",
    "prefetch_count": "Messages that the broker sends ahead; 0 means no limit",
    "x_message_ttl": "Milliseconds a message may wait, then it is a dead letter",
    "x_expires": "Milliseconds the queue may be unused, then it is deleted",
    "x_max_length": "Messages the queue holds at most",
    "x_dead_letter_exchange": 'Exchange of dead letters; "" is the default exchange',
    "x_dead_letter_routing_key": "Routing key of dead letters; else the message's own",
}


@click.command(
    "schema",
    short_help="Print the JSON Schema of a topology file.",
    help="""Print the JSON Schema (draft 2020-12) of a topology file.

    An editor with the YAML language server then completes its keys, explains them and
    marks mistakes: save the schema beside the file, and name it in the first line.
    `oops-celery validate` finds more.
    """,
    epilog="""\b
Example:
  oops-celery schema > topology.schema.json

\b
The first line of topology.yml:
  # yaml-language-server: $schema=topology.schema.json
""",
)
def command() -> None:
    """Print the schema."""
    click.echo(json.dumps(json_schema(), indent=2))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a topology file."""
    from pydantic import create_model
    from pydantic.json_schema import GenerateJsonSchema

    from oops_celery.topology import schema as models

    fields: dict[str, Any] = {
        "startup_handler": (models.Target | None, None),
        "exchanges": (list[models.ExchangeEntry], []),
        "queues": (list[models.QueueEntry], []),
        "consumers": (list[models.ConsumerSettings], []),
    }
    file = create_model("Topology", __config__={"extra": "forbid"}, **fields)
    schema = file.model_json_schema()
    for mapping in (schema, *schema["$defs"].values()):
        required = mapping.get("required", ())
        for key, value in mapping["properties"].items():
            mapping["properties"][key] = _described(key, value, key in required)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **schema,
        "title": "Topology of oops-celery",
    }


def _described(key: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
    """Return the schema of a key: with a description, and null if it may be left out.

    Flat, unlike pydantic's ``anyOf``: so an editor completes it, and says what is
    wrong.
    """
    values = {name: schema[name] for name in schema if name not in ("title", "anyOf")}
    for alternative in schema.get("anyOf", ()):
        if alternative["type"] != "null":
            values.update(alternative)
    if not required:
        values["type"] = [values["type"], "null"]
        if "enum" in values:
            values["enum"] = [*values["enum"], None]
    if values.get("default", ...) is None:
        del values["default"]
    text = DESCRIPTIONS.get(key)
    if key.startswith("x_"):
        argument = f"RabbitMQ's queue argument {key.replace('_', '-')}"
        text = f"{text} ({argument})" if text else argument
    return {"description": text or key, **values}
