"""Before the site is built: a folder in which prunekit's packages lie as they are imported.

The root of the repository is itself ``prunekit``, a namespace package, so that nothing on the disk has that name.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_TREE = _ROOT / "build" / "docs" / "prunekit"

_ROLE = re.compile(r":(?:func|meth|class|attr|data|mod):`~?([^`]+)`")
_TABLE = re.compile(r"^=+(?: =+)+\n.*?\n=+(?: =+)+\n.*?\n=+(?: =+)+$", re.MULTILINE | re.DOTALL)


def on_startup(**_options: Any) -> None:
    """Copy every package to ``build/docs/prunekit``, where ``mkdocs.yml`` has mkdocstrings look."""
    shutil.rmtree(_TREE, ignore_errors=True)
    for package in sorted(init.parent for init in _ROOT.glob("*/__init__.py")):
        for file in sorted(package.rglob("*.py")):
            copy = _TREE / file.relative_to(_ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(_as_markdown(file.read_text(encoding="utf-8")), encoding="utf-8")


def _as_markdown(text: str) -> str:
    """Docstrings are all but Markdown: roles become code, and tables drawn with ``=`` are shown as they stand."""
    text = _ROLE.sub(r"`\1`", text)
    return _TABLE.sub(lambda found: f"```text\n{found[0]}\n```", text)
