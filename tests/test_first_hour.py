"""What a new user meets first: his own modules, half an installation, and mistakes that everybody makes once."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from _house import python
from typer.testing import CliRunner

from prunekit.cli.config import METHODS, list_configs, load_config
from prunekit.cli.main import app
from prunekit.core.errors import InputError, PrunekitError, TraceError
from prunekit.core.registry import default_backend

torch = pytest.importorskip("torch")

from prunekit import backend_torch as pk  # noqa: E402

MODULE = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))

def grey(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 10))

def needs(width): return nn.Linear(width, 2)

def broken(): return nn.Conv2d(3, undefined, 3)

def nothing(): nn.ReLU()

def late():
    from their_helper import width
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 2, 3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x, y):
        return self.c(self.a(x) + self.b(y))

built = nn.ReLU()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody's work, in which commands run."""
    (tmp_path / "their_model.py").write_text(MODULE)
    (tmp_path / "their_helper.py").write_text("width = 6\n")
    (tmp_path / "their_slip.py").write_text("def build(:\n    pass\n")
    (tmp_path / "their_bug.py").write_text("\nx = undefined\n")
    (tmp_path / "their_lack.py").write_text("import a_library_that_is_not_installed\n")
    monkeypatch.chdir(tmp_path)
    for name in ("their_model", "their_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_model:broken", "got NameError: name 'undefined' is not defined (their_model.py, line 11)"),
        ("their_slip:build", "(their_slip.py, line 1)"),
        ("their_bug:build", "got NameError: name 'undefined' is not defined (their_bug.py, line 2)"),
        ("their_lack:build", "No module named 'a_library_that_is_not_installed' (their_lack.py, line 1)"),
        ("their_model:nothing", "must return a torch.nn.Module, got NoneType; have it return the network"),
        ("their_model:built", "got a ReLU that is built already; write a function"),
        ("their_model:needs", "got no width; add --set width=VALUE, in a configuration model.options.width"),
        ("their_model:Two", "missing 1 required positional argument: 'y'; give an example"),
        ("their_model.py:build", "write their_model:build"),
        ("./their_model.py", "write their_model:FUNCTION"),
        ("/somewhere/their_model.py:build", "write somewhere.their_model:build"),
        ("their_model.build", "write their_model:build"),
        ("mindcv:resnet18", "built by the mindspore backend, got 'mindcv:resnet18'; add --backend mindspore"),
    ],
)
def test_a_slip_with_a_model_of_ones_own_is_one_line(folder: Path, name: str, said: str) -> None:
    told = call("inspect", name, "--input", "1,3,6,6", "--backend", "torch", code=2)
    assert said in told and "Traceback" not in told and told.startswith("error: ")


def test_debug_shows_all_of_an_error_in_the_users_code(folder: Path) -> None:
    result = CliRunner().invoke(app, ["--debug", "inspect", "their_model:broken", "--input", "1,3,6,6"])
    assert isinstance(result.exception, NameError)


def test_a_model_of_ones_own_may_take_two_inputs_and_import_late(folder: Path) -> None:
    shapes = ("--input", "1,3,6,6", "--input", "1,1,6,6")
    assert json.loads(call("inspect", "their_model:Two", *shapes, "--json"))["inputs"] == [[1, 3, 6, 6], [1, 1, 6, 6]]
    assert "exact" in call("verify", "their_model:Two", *shapes, "--seeds", 1)
    before = list(sys.path)
    assert json.loads(call("inspect", "their_model:late", "--input", "1,3,6,6", "--json"))["groups"][0]["width"] == 6
    assert sys.path == before


@pytest.mark.parametrize("method", METHODS)
def test_a_first_configuration_for_a_model_of_ones_own(folder: Path, method: str) -> None:
    call("init", "mine.yml", "--method", method, "--model", "their_model:build")
    config = load_config("mine.yml")
    assert (config.method.name, config.model.name, config.data.size) == (method, "their_model:build", None)
    assert "`--input 3,224,224`" in (folder / "mine.yml").read_text()


def test_a_first_configuration_for_images_of_a_shape(folder: Path) -> None:
    for shape, name, size in [
        ("1,28,28", "fashion-mnist-or-digits", 28),
        ("3,32,32", "cifar10", None),
        ("1,3,32,32", "cifar10", None),
        ("3,224,224", "imagefolder", 224),
    ]:
        call("init", "mine.yml", "--model", "their_model:build", "--input", shape, "--overwrite")
        data = load_config("mine.yml").data
        assert (data.name, data.size) == (name, size)
        assert f"--input {shape}`" in (folder / "mine.yml").read_text()
    for shape in ("3x32x32", "32,32"):
        assert "--input must be" in call("init", "other.yml", "--model", "their_model:build", "--input", shape, code=2)
    call("init", "lenet.yml", "--model", "lenet5")
    assert load_config("lenet.yml").data.size == 28


def test_a_run_whose_images_do_not_fit_says_what_to_set(folder: Path) -> None:
    call("init", "mine.yml", "--method", "prune", "--model", "their_model:build")
    told = call("run", "mine.yml", "--set", "data.name=digits", code=2)
    assert "3 channels" in told and "set data.name, data.size or model.options" in told
    assert not (folder / "outputs").exists()


def test_ratios_that_cut_nothing_are_refused_before_any_training(folder: Path) -> None:
    call("init", "mine.yml", "--method", "channel_pruning", "--model", "their_model:grey")
    told = call("run", "mine.yml", "--set", "data.name=digits", code=2)
    assert "got 0.68, 0.68 for 0, 1, which cut nothing" in told and not (folder / "outputs").exists()


def test_ray_is_missed_before_any_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    small = ("--set", "data.name=digits", "--set", "data.batch_size=32")
    told = call("run", "eagle_eye_resnet20", "--set", "executor=ray", *small, code=2)
    assert "`pip install 'prunekit[ray]'`" in told and "training" not in told and not (folder / "outputs").exists()


def test_ready_configurations_are_listed_and_named_by_their_sentences(folder: Path) -> None:
    lines = CliRunner().invoke(app, ["list", "configs"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(list_configs())
    assert not any(line.endswith((" the", " then", " with", " and", " base", ".")) for line in lines)
    assert "did you mean 'quickstart'?" in call("run", "configs/quickstart.yml", code=2)
    assert "`prunekit list configs`" in call("run", "mine.yml", code=2)


def test_listed_models_are_those_of_the_backend() -> None:
    assert "transformers:NAME" in call("list", "models", "--backend", "torch")
    if find_spec("mindspore"):
        told = call("list", "models", "--backend", "mindspore")
        assert "mindcv:NAME" in told and "torchvision:NAME" not in told


def test_the_backend_is_that_of_the_installed_framework(tmp_path: Path) -> None:
    assert default_backend() == "torch"
    code = """
import importlib.util, sys
before = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else before(name, *rest)
sys.modules["torch"] = None
from prunekit.core.registry import default_backend
print(default_backend())
from prunekit.core.registry import get_backend
try:
    get_backend("torch")
except ImportError as error:
    print(error)
import prunekit.backend_torch
"""
    done = python(code, tmp_path)
    installed = find_spec("mindspore") is not None
    first, second = done.stdout.splitlines()
    assert first == ("mindspore" if installed else "torch")
    assert "`pip install 'prunekit[torch]'`" in second and ("--backend mindspore" in second) == installed
    assert "networks of PyTorch need torch, which is not installed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("model", "example", "said"),
    [
        (torch.nn.Linear(3, 2), (1, 3), r"got \(1, 3\); give a tensor of that shape"),
        (torch.nn.Linear(3, 2), None, "got None; give one"),
        (torch.nn.Linear, torch.ones(1, 3), r"got the class Linear; build the network first, as in Linear\(\)"),
        (call, torch.ones(1, 3), r"got the function call; build the network first, as in call\(\)"),
        (torch.nn.Linear(3, 2).state_dict(), torch.ones(1, 3), "give the network itself, not its weights"),
        (torch.nn.Linear(3, 2), torch.ones(1, 3).numpy(), "got a ndarray without any"),
        (torch.nn.LazyLinear(2), torch.ones(1, 3), "'weight' of a lazy module; run the network once"),
    ],
)
def test_what_is_given_in_place_of_a_network_or_an_input(model: object, example: object, said: str) -> None:
    with pytest.raises((InputError, TraceError), match=said):
        pk.prune(model, example, macs=0.5)


def test_one_pattern_needs_no_list() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3), torch.nn.Conv2d(4, 2, 3))
    example = torch.ones(1, 3, 8, 8)
    assert pk.prune(model, example, ratio=0.5, ignore="0")[0].out_channels == 8
    with pytest.raises(PrunekitError, match="got 'none\\*'"):
        pk.prune(model, example, ratio=0.5, ignore="none*")
