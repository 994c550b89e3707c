"""The rules that hold the house up: packaging, who imports whom, what is never loaded, doctests."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from _house import (
    ROOT,
    build_wheel,
    code_files,
    forbidden_import,
    imports,
    module_name,
    package_files,
    project_files,
    python,
    top_packages,
    unsafe_loads,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def path_in_repository(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


# ---------------------------------------------------------------- packaging


def test_every_package_is_listed() -> None:
    found = {module_name(file) for file in package_files() if file.name == "__init__.py"}
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert found == set(listed)
    assert len(listed) == len(set(listed))


def test_every_folder_with_code_is_a_package() -> None:
    without = {file.parent for file in package_files() if not (file.parent / "__init__.py").exists()}
    assert without == set()


def test_the_root_is_a_namespace_package() -> None:
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("top", top_packages())
def test_top_package_is_typed_and_guarded(top: str, tmp_path: Path) -> None:
    assert (ROOT / top / "py.typed").is_file()
    done = python(f"import sys; sys.path.insert(0, sys.argv[1]); import {top}", tmp_path, str(ROOT))
    assert done.returncode != 0
    assert re.search(rf"ImportError: .*prunekit\.{top}, got {top};", done.stderr), done.stderr


def test_all_extra_names_every_extra_that_users_need() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"[\w-]+", everything.partition("[")[2])) == set(extras) - {"all", "docs", "test"}


def test_constraints_pin_every_direct_dependency() -> None:
    project = pyproject()["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {_normal(re.match(r"[\w.-]+", line).group()) for line in wanted}  # type: ignore[union-attr]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_normal(line.partition("==")[0]) for line in lines if "==" in line}
    # tomli is for Python 3.10 only
    assert names - {"prunekit", "tomli"} <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_wheel_holds_everything(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [file for file in project_files() if file.relative_to(ROOT).parts[0] in top_packages()]
    assert {f"prunekit/{path_in_repository(file)}" for file in shipped} - names == set()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"prunekit"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {"prunekit/core/py.typed", "prunekit/cli/report/page.html", "prunekit/configs/quickstart.yml"} <= names
    assert not [name for name in names if re.search(r"(^|/)(tests?|conftest|benchmarks)(/|\.py)", name)]


# ---------------------------------------------------------------- who imports whom


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/plan.py", "import torch"),
        ("core/plan.py", "def f():\n    from torch import nn"),
        ("core/plan.py", "from prunekit.algorithms import uni_pruning"),
        ("core/plan.py", "from prunekit import backend_torch"),
        ("core/coupling/rules.py", "from ...cli import main"),
        ("algorithms/eagle_eye.py", "from prunekit.backend_torch import prune"),
        ("algorithms/eagle_eye.py", "import mindspore.nn"),
        ("backend_torch/trace.py", "from prunekit.algorithms.uni_pruning import UniPruning"),
        ("backend_torch/trace.py", "from prunekit.backend_mindspore import trace"),
        ("backend_torch/trace.py", "import mindspore"),
        ("backend_mindspore/trace.py", "import torch.nn"),
        ("backend_torch/zoo/__init__.py", "from prunekit.algorithms import uni_pruning"),
        ("cli/main.py", "from prunekit.backend_torch import prune"),
        ("cli/main.py", "from prunekit.algorithms import uni_pruning"),
        ("configs/__init__.py", "from prunekit.cli import main"),
    ],
)
def test_a_wrong_import_is_seen(file: str, source: str) -> None:
    names = imports(source, module_name(ROOT / file), file.endswith("__init__.py"))
    assert any(forbidden_import(file, name) for name in names)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/plan.py", "import numpy\nfrom prunekit.core.graph import Graph\nfrom . import graph"),
        ("algorithms/eagle_eye.py", "from prunekit.core import plan\nfrom .evaluation import score"),
        ("backend_torch/trace.py", "import torch\nfrom prunekit import core\nfrom prunekit.backend_torch import cut"),
        ("backend_torch/uni_pruner.py", "from prunekit.algorithms.uni_pruning import UniPruning"),
        ("cli/main.py", "import typer\nfrom prunekit.configs import schema"),
    ],
)
def test_a_right_import_is_allowed(file: str, source: str) -> None:
    names = imports(source, module_name(ROOT / file), file.endswith("__init__.py"))
    assert not any(forbidden_import(file, name) for name in names)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path_in_repository(file)} imports {name}"
        for file in package_files()
        for name in imports(file.read_text(encoding="utf-8"), module_name(file), file.name == "__init__.py")
        if forbidden_import(path_in_repository(file), name)
    ]
    assert wrong == []


# Reports what was loaded or asked for: an import behind `try` counts, also where the library is missing.
_WATCH = """
import importlib, json, sys

asked = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.append(name)

sys.meta_path.insert(0, Watch())
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print(json.dumps(sorted({name.partition(".")[0] for name in [*asked, *sys.modules]})))
"""


def libraries_of(top: str, cwd: Path) -> set[str]:
    """Top names of all that the modules of a package load, or ask for, in a fresh process."""
    modules = [module_name(file) for file in package_files() if file.is_relative_to(ROOT / top)]
    modules = [module for module in modules if not module.endswith(".__main__")]
    done = python(_WATCH, cwd, json.dumps(modules))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("top", [top for top in top_packages() if not top.startswith("backend_")])
def test_framework_free_packages_load_no_framework(top: str, tmp_path: Path) -> None:
    loaded = libraries_of(top, tmp_path)
    assert "prunekit" in loaded
    assert loaded & {"torch", "torchvision", "mindspore"} == set()


def test_torch_backend_loads_no_mindspore(tmp_path: Path) -> None:
    loaded = libraries_of("backend_torch", tmp_path)
    assert "torch" in loaded
    assert loaded & {"mindspore", "transformers"} == set()


# ---------------------------------------------------------------- what is never done


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("pickle.load(stream)", 1),
        ("from pickle import loads", 1),
        ("pickle.Unpickler(stream).load()", 1),
        ("class U(pickle.Unpickler):\n    pass", 1),
        ("class U(pickle.Unpickler):\n    def find_class(self, module, name): ...", 0),
        ("yaml.load(text, Loader=yaml.Loader)", 1),
        ("yaml.load(text)", 1),
        ("yaml.unsafe_load(text)", 1),
        ("class L(yaml.Loader):\n    pass\nyaml.load(text, Loader=L)", 1),
        ("class L(yaml.SafeLoader):\n    pass\nyaml.load(text, Loader=L)", 0),
        ("yaml.safe_load(text)", 0),
        ("np.load(path, allow_pickle=True)", 1),
        ("np.load(path)", 0),
        ("joblib.load(path)", 1),
    ],
)
def test_an_unsafe_load_is_seen(source: str, count: int) -> None:
    assert len(unsafe_loads(source)) == count


def test_nothing_loads_code_from_a_file() -> None:
    files = code_files()
    assert files
    found = [f"{path_in_repository(f)}: {line}" for f in files for line in unsafe_loads(f.read_text(encoding="utf-8"))]
    assert found == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.~-])/(?:home/\w+|Users/\w+|root|work|mnt/\w+)/" + "|" + re.escape(f"{ROOT}/"))
    found = []
    for file in project_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path_in_repository(file)}: {match.group()}" for match in machine.finditer(text)]
    assert found == []


# ---------------------------------------------------------------- doctests


def doctest_modules() -> list[str]:
    return [module_name(file) for file in package_files() if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", doctest_modules())
def test_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
