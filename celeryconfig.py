"""Settings of a worker that is started in this folder; as they are, the defaults.

Only names that start with OOPS_ count: those of oops_celery/settings.py, and any Celery
setting. The same names in the environment come first.
"""

import os
from pathlib import Path

# OOPS_CONFIG = "package.module:config"  # the oops.Config that takes the reports, else:
# OOPS_REPOSITORY = "sqlite:///oopses.db"  # the database that keeps the reports
# OOPS_TOPOLOGY = "./topology.yml"       # exchanges and queues, else oops_celery's own
# OOPS_MAX_RETRIES = 20                  # retries of a report before it is parked
# OOPS_WORKER_CONCURRENCY = 2            # any setting of Celery, with OOPS_ before it

# While `make run` is at work without RabbitMQ, the commands look at what it made.
_running = Path("var/embedded.pid")
if _running.exists() and not os.environ.get("RABBITMQ_URL"):
    try:
        os.kill(int(_running.read_text()), 0)
    except (ValueError, ProcessLookupError, PermissionError):
        pass  # it ended without a word
    else:
        from examples.embedded import *  # noqa: F403
