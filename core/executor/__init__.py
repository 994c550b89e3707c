"""Where candidates are evaluated: in this process, in others, or on a cluster."""

from prunekit.core.executor.base import Executor, LocalExecutor, Result, Worker
from prunekit.core.executor.processes import ProcessExecutor
from prunekit.core.executor.ray import RayExecutor

__all__ = ["Executor", "LocalExecutor", "ProcessExecutor", "RayExecutor", "Result", "Worker"]
