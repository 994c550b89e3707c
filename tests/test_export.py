"""Exported files compute what the model does, in their own runtime, or there is no file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.exporting import FORMATS, export
from prunekit.core.analysis import analyse
from prunekit.core.errors import ExportError, OutputError
from prunekit.core.testing import random_plan

SHAPE = (2, 3, 12, 12)


def pruned() -> nn.Module:
    analysis = analyse(TorchBackend(), randomise(Mixed()), torch.zeros(SHAPE))
    return analysis.backend.apply(analysis, random_plan(analysis))


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    """What the file computes, read by its runtime alone."""
    if path.suffix == ".pt2":
        return torch.export.load(str(path)).module()(x)
    if path.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.as_tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    return torch.jit.load(str(path))(x)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("batch", [1, 2])
def test_files_agree_at_every_batch_size(
    tmp_path: Path, format: str, batch: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = pruned().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        path = export(model, torch.randn(batch, *SHAPE[1:]), tmp_path / "small", format)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert [p.name for p in tmp_path.iterdir()] == [f"small{FORMATS[format].suffixes[0]}"]
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    model.eval()
    for size in (1, 2, 5):
        x = torch.randn(size, *SHAPE[1:])
        with torch.no_grad():
            assert torch.allclose(run(path, x), model(x), atol=1e-5, rtol=1e-4)


class Branches(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self.left(image), self.right(depth)
        return a + b, a.mean((2, 3))


@pytest.mark.parametrize("format", FORMATS)
def test_several_inputs_and_outputs_also_by_keyword(tmp_path: Path, format: str) -> None:
    image, depth = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
    model = Branches()
    for number, example in enumerate(((image, depth), {"depth": depth, "image": image})):
        path = export(model, example, tmp_path / str(number), format)
        assert path.stat().st_size > 0
    if format == "torchscript":
        loaded = torch.jit.load(str(path))
        assert all(torch.allclose(a, b) for a, b in zip(loaded(image, depth), model(image, depth), strict=True))


class FixedBatch(nn.Module):
    """Runs at one batch size only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.view(2, 12))


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_of_one_batch_size_gives_a_file_of_that_size(tmp_path: Path, format: str) -> None:
    model, x = FixedBatch(), torch.randn(2, 3, 2, 2)
    path = export(model, x, tmp_path / "fixed", format)
    with torch.no_grad():
        assert torch.allclose(run(path, x), model(x), atol=1e-5)


class Noisy(nn.Module):
    """Gives another answer each time: no file can agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.rand(x.shape[0], 3)


class Counts(nn.Module):
    """What it computes depends on a Python value that tracing takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * len(np.flatnonzero(x.detach().numpy() > 0.3))


@pytest.mark.parametrize("model", [Noisy(), Counts()], ids=["noisy", "counts"])
@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_a_file_that_would_be_wrong_is_not_written(tmp_path: Path, model: nn.Module, format: str) -> None:
    (tmp_path / f"net{FORMATS[format].suffixes[0]}").write_text("what was there before")
    with pytest.raises(ExportError, match="must compute what the model does"):
        export(model, torch.randn(2, 4), tmp_path / "net", format)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["what was there before"]


class Choice(nn.Module):
    """A branch that only a script can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return self.a(x)
        return self.b(x)


def test_a_branch_on_data_is_scripted(tmp_path: Path) -> None:
    model = Choice()
    path = export(model, torch.ones(2, 4), tmp_path / "choice", "torchscript")
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        with torch.no_grad():
            assert torch.allclose(run(path, x), model(x), atol=1e-6)


# ---------------------------------------------------------------- bad input


def test_formats_and_suffixes(tmp_path: Path) -> None:
    model, x = Branches(), (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8))
    with pytest.raises(ExportError, match="did you mean 'onnx'"):
        export(model, x, tmp_path / "net", "onxx")
    with pytest.raises(ExportError, match=r"must end in \.pt2"):
        export(model, x, tmp_path / "net.onnx", "pt2")


def test_examples_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="run on the example"):
        export(Mixed(), torch.randn(2, 5, 12, 12), tmp_path / "net", "torchscript")
    with pytest.raises(ExportError, match="fit the model's forward"):
        export(Mixed(), {"image": torch.randn(SHAPE)}, tmp_path / "net", "torchscript")
    broken = Mixed()
    with torch.no_grad():
        broken.fc.bias[0] = float("nan")
    with pytest.raises(ExportError, match="finite"):
        export(broken, torch.randn(SHAPE), tmp_path / "net", "torchscript")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_cannot_be_written(tmp_path: Path, format: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        export(Mixed(), torch.randn(SHAPE), tmp_path / "file" / "net", format)
