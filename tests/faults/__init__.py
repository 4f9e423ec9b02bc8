"""Faults: a broker, workers and publishers in real processes, and what befalls them.

`processes` and `nodes` give pytest-celery nodes that are processes of this machine;
`load` publishes, `keeper` is the worker's `oops.Config`, `ledger` counts afterwards;
`breaking` holds the faults. `soak` and `memory` are programs: `make soak`.
"""
