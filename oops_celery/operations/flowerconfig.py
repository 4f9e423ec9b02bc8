"""Flower's settings, where its folder has no flowerconfig.py: reports, in words."""

import re
from typing import Any

# Keep as many reports as a person looks back on.
max_tasks = 10_000
# The task's name says less than its arguments: type, topic and reporter.
tasks_columns = "uuid,state,args,result,received,runtime,worker"


def format_task(task: Any) -> Any:
    """Say in words what became of a report. Flower gives a copy of what it knows."""
    if task.name != "oops_celery.republish":
        return task
    task.args = re.sub(r"^\((.*)\)$", r"\1", task.args or "")
    # NotTaken('OSError: the disk is full'): the second name is the one that matters.
    reason = re.sub(r"""^\w+\((['"])(.*)\1\)$""", r"\2", task.exception or "")
    if task.state == "SUCCESS":
        ids = re.sub(r"[\[\]']", "", task.result or "")
        kept = "kept" if ids == task.uuid else f"kept as {ids}"
        task.result = "filtered" if ids == "None" else kept
    elif task.state == "RETRY":
        task.result = f"retried later: {reason}"
    elif task.state == "FAILURE":
        task.result = f"dead letter: {reason}"
    return task
