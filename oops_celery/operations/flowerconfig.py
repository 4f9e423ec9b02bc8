"""Flower's settings, if its folder has no flowerconfig.py: reports in words."""

import re
from typing import Any

from oops_celery import url

# Keep as many reports as a person looks back on.
max_tasks = 10_000
# The arguments (type, topic, reporter) say more than the task's name.
tasks_columns = "uuid,state,args,result,received,runtime,worker"


def format_task(task: Any) -> Any:
    """Return a task with the outcome of its report in words. Flower passes a copy."""
    if task.name != "oops_celery.republish":
        return task
    task.args = re.sub(r"^\((.*)\)$", r"\1", task.args or "")
    # NotTaken('OSError: the disk is full'): the second name matters.
    reason = re.sub(r"""^\w+\((['"])(.*)\1\)$""", r"\2", task.exception or "")
    if task.state == "SUCCESS":
        ids = re.sub(r"[\[\]']", "", task.result or "")
        kept = "kept" if ids == task.uuid else f"kept as {ids}"
        if link := url(ids):
            kept += f": {link}"
        task.result = "filtered" if ids == "None" else kept
    elif task.state == "RETRY":
        task.result = f"retried later: {reason}"
    elif task.state == "FAILURE":
        task.result = f"dead letter: {reason}"
    return task
