"""The command lines that turn an exported file into a model for Ascend."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from prunekit.core.errors import ExportError

__all__ = ["commands"]

_TEXT = """\
# {name}: inputs {inputs}; for {soc}
# Run in the folder of the file. "npu-smi info" on the machine tells its processor.

# MindSpore Lite, from a MINDIR file:
{lite}

# ATC of CANN, from an ONNX file:
{atc}
"""
_AIR = """
# ATC of CANN, from an AIR file:
{atc}
"""


def commands(path: Path, inputs: Mapping[str, tuple[int, ...]], soc_version: str) -> str:
    """Text with the commands of MindSpore Lite and of ATC for a model.

    Args:
        path: The exported file; those of other formats are taken to have the same name but for the suffix.
        inputs: Shape of each input by name.
        soc_version: The processor, e.g. ``"Ascend310P3"``.

    Raises:
        ExportError: The processor's name is malformed.
    """
    match = re.fullmatch(r"Ascend(\d+[A-Za-z]?)[\w-]*", soc_version)
    if match is None:
        raise ExportError(
            f"soc_version must be the name of a processor, got {soc_version!r}; write 'Ascend' and what "
            "`npu-smi info` shows, e.g. 'Ascend310P3'"
        )
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in inputs.items())
    output = f"{path.stem}_{soc_version}"
    ranks = {len(shape) for shape in inputs.values()}
    atc = {"output": output, "soc_version": soc_version, "input_format": "NCHW" if ranks == {4} else "ND"}
    text = _TEXT.format(
        name=path.name,
        soc=soc_version,
        inputs=", ".join(f"{name} {shape}" for name, shape in inputs.items()),
        lite=_line(
            "converter_lite", fmk="MINDIR", modelFile=path.with_suffix(".mindir").name, outputFile=output,
            optimize=f"ascend_oriented:{match[1].lower()}", inputShape=shapes,
        ),
        atc=_line("atc", framework="5", model=path.with_suffix(".onnx").name, **atc, input_shape=shapes),
    )  # fmt: skip
    if path.suffix.lower() == ".air":  # ATC takes the shapes from such a file, and knows one layout
        del atc["input_format"]
        text += _AIR.format(atc=_line("atc", framework="1", model=path.name, **atc))
    return text


def _line(program: str, **options: str) -> str:
    return " ".join([program, *(f"--{name}={shlex.quote(value)}" for name, value in options.items())])
