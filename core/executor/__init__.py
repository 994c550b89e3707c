"""Where candidates are evaluated: in this process, in others, or on a cluster."""

from prunekit.core.executor.base import Executor, LocalExecutor, Result, Worker

__all__ = ["Executor", "LocalExecutor", "Result", "Worker"]
