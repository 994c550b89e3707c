"""The errors that prunekit raises: one small tree, whose leaves are also builtins; and a warning.

A message states the rule, then the value that broke it, then what to do.

    >>> raise BudgetError("macs must lie in (0, 1], got macs=1.7; use macs=0.5 to keep half")
    Traceback (most recent call last):
    prunekit.core.errors.BudgetError: macs must lie in (0, 1], got macs=1.7; use macs=0.5 to keep half
"""

from __future__ import annotations


class PrunekitError(Exception):
    """Base of every error that prunekit raises on purpose."""


class ConfigError(PrunekitError, ValueError):
    """A key, a type or a value of a configuration is wrong."""


class InputError(PrunekitError, ValueError):
    """An argument (a model, an example input, an index) is not what the call needs."""


class UserCodeError(InputError):
    """A name stands for code of the user's own where none may be run."""


class DataError(PrunekitError, ValueError):
    """A data set is missing, malformed or smaller than asked for."""


class BudgetError(PrunekitError, ValueError):
    """A budget is malformed, or no network reaches it."""


class NothingToPruneError(PrunekitError, ValueError):
    """No channel group of the network may be cut."""


class PlanError(PrunekitError, ValueError):
    """A plan, a mask or an encoding does not fit the model it is used on."""


class CheckpointError(PrunekitError, ValueError):
    """A weights file is truncated, foreign, or of another model."""


class TraceError(PrunekitError, RuntimeError):
    """A network could not be run to record what it computes."""


class CutError(PrunekitError, RuntimeError):
    """A pruned network does not compute the shapes that the plan implies.

    Args:
        message: What is wrong.
        position: Index of the op of the unpruned network that stands in the way, where it is known.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class TrainingError(PrunekitError, RuntimeError):
    """Training went wrong: the loss is not finite, or the network changed its shape on the way."""


class ExportError(PrunekitError, RuntimeError):
    """An export failed, or the exported file does not compute what the model does."""


class OutputError(PrunekitError, OSError):
    """A file or folder cannot be written."""


class StudyError(PrunekitError, ValueError):
    """A study is damaged, of another version, or of another search."""


class WorkerError(PrunekitError, RuntimeError):
    """What evaluates candidates in other processes cannot be started, or is lost."""


class MissingDependencyError(PrunekitError, ImportError):
    """An optional library is needed for this call and is not installed."""


class ConfigWarning(UserWarning):
    """The configuration that a pruned network carries does not describe it."""
