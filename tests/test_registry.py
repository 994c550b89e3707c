"""Backends and algorithms are found by name, those of other packages too, and a missing framework is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from _house import python

from prunekit.core.backend import Backend
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.registry import backend_of, get_algorithm, get_backend, list_algorithms, list_backends


@pytest.mark.parametrize("name", list_backends())
def test_every_backend_of_the_table_is_one(name: str) -> None:
    backend = get_backend(name)
    assert isinstance(backend, Backend)
    assert backend.name == name


@pytest.mark.parametrize("name", list_algorithms())
def test_every_algorithm_of_the_table_can_be_made(name: str) -> None:
    assert get_algorithm(name)().name == name


@pytest.mark.parametrize(
    ("get", "name", "hint"),
    [
        (get_backend, "Torch", "did you mean 'torch'?"),
        (get_algorithm, "unipruning", "did you mean 'uni_pruning'?"),
        (get_backend, "caffe", "known are"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known(get, name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        get(name)
    assert repr(name) in str(error.value)
    assert hint in str(error.value)


def test_the_backend_of_a_model_is_found() -> None:
    torch = pytest.importorskip("torch")
    assert backend_of(torch.nn.Linear(2, 2)).name == "torch"
    with pytest.raises(InputError, match="got dict"):
        backend_of({})


def test_a_missing_framework_is_named_with_its_extra(tmp_path: Path) -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Blocked())
from prunekit.core.errors import MissingDependencyError
from prunekit.core.registry import get_backend
try:
    get_backend("torch")
except MissingDependencyError as error:
    print(error)
"""
    done = python(code, tmp_path)
    assert "backend 'torch' needs torch, which is not installed; run `pip install 'prunekit[torch]'`" in done.stdout


def test_another_package_adds_its_own_by_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "their_package.py").write_text("class Theirs: name = 'theirs'\nclass Thief: name = 'thief'\n")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[prunekit.algorithms]\ntheirs = their_package:Theirs\nuni_pruning = their_package:Thief\n"
    )
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from prunekit.core.registry import get_algorithm, list_algorithms
print(*list_algorithms())
print(get_algorithm("theirs").name, get_algorithm("uni_pruning").name)
"""
    done = python(code, tmp_path, str(tmp_path))
    names = "channel_pruning eagle_eye meta_pruning prune_ea theirs uni_pruning"
    assert done.stdout.splitlines() == [names, "theirs uni_pruning"], done.stderr
