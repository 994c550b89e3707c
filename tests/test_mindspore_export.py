"""Exported files of MindSpore networks compute what the networks do, or there is no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore")
from prunekit.backend_mindspore import MindSporeBackend  # isort: skip  # sets what must be set before the next import

import mindspore as ms
from mindspore import nn, ops

from prunekit.backend_mindspore.exporting import FORMATS, export
from prunekit.core.analysis import analyse
from prunekit.core.errors import ExportError, OutputError
from prunekit.core.testing import random_plan

SHAPE = (2, 3, 8, 8)


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


class Small(nn.Cell):
    """A residual block, a depthwise conv, and a dense head after flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.SequentialCell(nn.Conv2d(3, 8, 3, pad_mode="pad", padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, pad_mode="pad", padding=1, group=8, has_bias=True)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc = nn.Dense(8 * 16, 5)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        x = self.stem(x)
        x = self.pool(x + ops.relu(self.conv(x)))
        return self.fc(x.reshape(x.shape[0], -1))


class Two(nn.Cell):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Dense(4, 3), nn.Dense(6, 3)

    def construct(self, image: ms.Tensor, depth: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        a, b = self.left(image), self.right(depth)
        return a + b, ops.relu(a)


def draw(*shape: int) -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def pruned() -> nn.Cell:
    analysis = analyse(MindSporeBackend(), Small(), draw(*SHAPE))
    return analysis.backend.apply(analysis, random_plan(analysis))


def close(first: ms.Tensor | np.ndarray, second: ms.Tensor) -> bool:
    return bool(np.allclose(np.asarray(first), second.asnumpy(), atol=1e-5))


def test_a_pruned_network_in_both_modes(tmp_path: Path, mode: int) -> None:
    model, x = pruned(), draw(*SHAPE)
    model.stem.set_train(True)
    flags = [cell.training for _, cell in model.cells_and_names()]
    before = [p.asnumpy().copy() for p in model.get_parameters()]
    path = export(model, x, tmp_path / "net", "mindir")
    assert path == tmp_path / "net.mindir" and ms.get_context("mode") == mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.mindir", "net.mindir.convert.txt"]
    assert [cell.training for _, cell in model.cells_and_names()] == flags
    assert all(np.array_equal(p.asnumpy(), b) for p, b in zip(model.get_parameters(), before, strict=True))
    assert not any(cell.compile_cache for _, cell in model.cells_and_names())
    model.set_train(False)
    assert close(nn.GraphCell(ms.load(str(path)))(x), model(x))


def test_a_file_for_every_batch_size(tmp_path: Path) -> None:
    model = Small().set_train(False)
    path = export(model, draw(*SHAPE), tmp_path / "net", "mindir", dynamic_batch=True)
    loaded = nn.GraphCell(ms.load(str(path)))
    for size in (1, 2, 5):
        x = draw(size, *SHAPE[1:])
        assert close(loaded(x), model(x))
    with pytest.raises(ExportError, match="dynamic_batch"):
        export(model, draw(*SHAPE), tmp_path / "net", "onnx", dynamic_batch=True)


def test_onnx_files(tmp_path: Path, mode: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = pruned().set_train(False), draw(*SHAPE)
    tmp_path.chmod(0o755)
    path = export(model, x, tmp_path / "net.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert close(session.run(None, {"x": x.asnumpy()})[0], model(x))
    # MindSpore itself would close the folder to others, and the file to changes
    assert tmp_path.stat().st_mode & 0o777 == 0o755 and path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("format", ["mindir", "onnx"])
def test_several_inputs_and_outputs_also_by_keyword(tmp_path: Path, format: str) -> None:
    image, depth = draw(2, 4), draw(2, 6)
    for number, example in enumerate(((image, depth), {"depth": depth, "image": image})):
        path = export(Two(), example, tmp_path / str(number), format)
        assert "image:2,4;depth:2,6" in path.with_name(path.name + ".convert.txt").read_text()


class Noisy(nn.Cell):
    """Gives another answer each time: no file can agree with it."""

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return x + ops.standard_normal(x.shape)


def test_a_file_that_would_be_wrong_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "net.mindir").write_text("what was there before")
    with pytest.raises(ExportError, match="must compute what the model does"):
        export(Noisy(), draw(2, 4), tmp_path / "net", "mindir")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["what was there before"]


class Special(nn.Cell):
    """Has an op that the ONNX exporter does not know."""

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return ops.avg_pool2d(x, 2, 2)


def test_an_op_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExportError, match=r"the op AvgPool3D.*mindir"):
        export(Special(), draw(*SHAPE), tmp_path / "net", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(ms.get_context("device_target") == "Ascend", reason="AIR files can be written there")
def test_air_needs_ascend(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"(?s)'mindir'.*converter_lite.*'onnx'.*ATC"):
        export(Small(), draw(*SHAPE), tmp_path / "net", "air")
    assert not list(tmp_path.iterdir())


def test_the_commands_for_ascend(tmp_path: Path) -> None:
    path = export(Special(), draw(1, 3, 4, 6), tmp_path / "my net", "mindir", soc_version="Ascend910B4")
    text = path.with_name(path.name + ".convert.txt").read_text()
    assert (
        "converter_lite --fmk=MINDIR --modelFile='my net.mindir' --outputFile='my net_Ascend910B4' "
        "--optimize=ascend_oriented:910b --inputShape=x:1,3,4,6\n"
    ) in text
    assert (
        "atc --framework=5 --model='my net.onnx' --output='my net_Ascend910B4' --soc_version=Ascend910B4 "
        "--input_format=NCHW --input_shape=x:1,3,4,6\n"
    ) in text
    with pytest.raises(ExportError, match="soc_version"):
        export(Special(), draw(1, 3, 4, 6), tmp_path / "other", "mindir", soc_version="Ascend; rm")
    assert not (tmp_path / "other.mindir").exists()


def test_mixed_precision_is_compared_at_its_own_precision(tmp_path: Path, mode: int) -> None:
    model, x = Small().to_float(ms.float16).set_train(False), draw(*SHAPE)
    path = export(model, x, tmp_path / "net", "mindir")
    assert np.allclose(nn.GraphCell(ms.load(str(path)))(x).asnumpy(), model(x).asnumpy(), atol=1e-2)


# ---------------------------------------------------------------- bad input


def test_formats_and_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="did you mean 'onnx'"):
        export(Small(), draw(*SHAPE), tmp_path / "net", "onxx")
    with pytest.raises(ExportError, match=r"must end in \.mindir"):
        export(Small(), draw(*SHAPE), tmp_path / "net.onnx", "mindir")
    assert set(FORMATS) == {"mindir", "onnx", "air"}


def test_examples_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="run on the example"):
        export(Small(), draw(2, 5, 8, 8), tmp_path / "net", "mindir")
    with pytest.raises(ExportError, match="fit the model's construct"):
        export(Small(), {"image": draw(*SHAPE)}, tmp_path / "net", "mindir")
    broken = Small()
    broken.fc.bias.set_data(ms.Tensor(np.full(5, np.nan, np.float32)))
    with pytest.raises(ExportError, match="finite"):
        export(broken, draw(*SHAPE), tmp_path / "net", "mindir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["mindir", "onnx"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, format: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        export(Small(), draw(*SHAPE), tmp_path / "file" / "net", format)
