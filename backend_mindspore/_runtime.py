"""What must be set before MindSpore is imported, or right after. The package imports this module first."""

from __future__ import annotations

import logging
import os
import sys

from prunekit.core.executor._threads import THREADS_VARIABLE

__all__ = ["limit_threads", "prepare"]

logger = logging.getLogger("prunekit.mindspore")
_ISA = "ONEDNN_MAX_CPU_ISA"


def prepare() -> None:
    """Let MindSpore's CPU kernels use AVX2, unless the user has chosen.

    With AVX-512 its oneDNN falls back to a reference convolution that takes 25 to 50 times as long.
    """
    if _ISA in os.environ:
        return
    if "mindspore" in sys.modules:
        logger.warning(
            "%s must be set before MindSpore is imported, got neither; on a CPU import prunekit.backend_mindspore "
            "first or set %s=AVX2, else convolutions may be 25 times slower",
            _ISA,
            _ISA,
        )
        return
    os.environ[_ISA] = "AVX2"
    logger.info("set %s=AVX2: MindSpore's convolutions are faster with it on a CPU", _ISA)


def limit_threads() -> None:
    """Let MindSpore use as many threads as an executor gave this worker process.

    It reads none of the variables that other libraries do, and takes the number once, before its first kernel.
    """
    count = os.environ.get(THREADS_VARIABLE, "")
    if not count.isdecimal():
        return
    import mindspore

    mindspore.runtime.dispatch_threads_num(int(count))
