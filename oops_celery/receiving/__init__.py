"""In the worker: take reports, run their task, and decide what becomes of each."""
