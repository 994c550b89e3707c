"""MindSpore's loaders: data sets of MindSpore with the very batches that PyTorch has."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms
from mindspore import dataset as ds
from mindspore import nn

from prunekit.backend_mindspore.data import Loaders, loaders
from prunekit.backend_torch.data import loaders as torch_loaders
from prunekit.core.data import load_images
from prunekit.core.errors import DataError, InputError

PARTS = ("train", "validation", "test", "calibration")


def rows(part: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.asnumpy(), y.asnumpy()) for x, y in part]


def same(one: Any, two: Any) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(np.array_equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def image_folder(root: Path, rng: np.random.Generator) -> None:
    for part, count in (("train", 10), ("val", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_those_of_pytorch(augment: bool) -> None:
    own, theirs = (f("digits", 64, limit=400, augment=augment, seed=5) for f in (loaders, torch_loaders))
    assert (own.classes, own.shape, own.name) == (theirs.classes, theirs.shape, theirs.name)
    for part in [*PARTS, *PARTS]:  # twice: the second pass over the training set has an order of its own
        found = rows(getattr(own, part))
        assert same(found, [(x.numpy(), y.numpy()) for x, y in getattr(theirs, part)])
        assert len(found) == len(getattr(own, part))


def test_passes_are_repeatable_and_epochs_differ() -> None:
    splits = load_images("digits")
    first, again, other = (loaders(splits, 64, augment=True, seed=s) for s in (0, 0, 1))
    assert all(isinstance(getattr(first, part), ds.Dataset) for part in PARTS)
    start = rows(first.train)
    assert same(start, rows(again.train)) and not same(start, rows(other.train))
    assert len(start) == len(first.train) == 1294 // 64
    assert not same(start, rows(first.train))
    first.train.set_epoch(0)  # type: ignore[attr-defined]
    for batch in first.train:  # left in the middle
        assert same([[part.asnumpy() for part in batch]], start[:1])
        break
    assert same(rows(first.train), rows(again.train))
    for part in PARTS[1:]:
        assert same(rows(getattr(first, part)), rows(getattr(first, part)))
    assert sum(len(y) for _, y in first.test) == len(splits.test)
    images, labels = next(iter(first.train))
    assert images.dtype == ms.float32 and labels.dtype == ms.int32
    calibration = np.concatenate([x for x, _ in rows(loaders(splits, 1294).calibration)])
    assert abs(calibration.mean()) < 1e-4 and calibration.std() == pytest.approx(1, abs=1e-3)


def test_a_model_of_mindspore_trains_on_them() -> None:
    found = loaders("digits", 32, limit=320, seed=1)
    net = nn.SequentialCell(nn.Flatten(), nn.Dense(64, 10))
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = ms.Model(net, loss, nn.Adam(net.trainable_params(), 0.01), metrics={"accuracy"})
    before = model.eval(found.validation, dataset_sink_mode=False)["accuracy"]
    model.train(6, found.train, dataset_sink_mode=False)
    assert before < 0.4 and model.eval(found.validation, dataset_sink_mode=False)["accuracy"] > 0.7
    assert set(next(found.test.create_dict_iterator(num_epochs=1))) == {"image", "label"}  # type: ignore[attr-defined]


def test_an_image_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    image_folder(tmp_path, rng)
    options: dict[str, Any] = {"root": tmp_path, "image_size": 32, "augment": True}
    numeric, plain, ahead = np.random.get_state()[1].tolist(), random.getstate(), ds.config.get_prefetch_size()
    own, threads = (loaders("imagefolder", 4, workers=workers, **options) for workers in (0, 2))
    theirs = torch_loaders("imagefolder", 4, **options)
    assert own.shape == (3, 32, 32) and own.classes == ("cat", "dog")
    for part in PARTS:
        found = rows(getattr(own, part))
        assert same(found, rows(getattr(threads, part)))  # threads do not change the numbers
        assert same(found, [(x.numpy(), y.numpy()) for x, y in getattr(theirs, part)])
    assert np.random.get_state()[1].tolist() == numeric and random.getstate() == plain
    assert ds.config.get_prefetch_size() == ahead


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(tmp_path: Path, rng: np.random.Generator, workers: int) -> None:
    image_folder(tmp_path, rng)
    (tmp_path / "val" / "cat" / "0.png").write_bytes(b"not an image")
    found = loaders("imagefolder", 4, root=tmp_path, image_size=32, workers=workers)
    for _ in range(2):
        with pytest.raises(DataError, match=r"an image file must be readable, got .*0\.png"):
            list(found.test)
    assert len(list(found.validation)) == len(found.validation) > 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "batch_size, options, message",
    [
        (64, {"limit": 50}, "must fill a batch, got 50 images for batch_size=64"),
        (0, {}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_batches(batch_size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaders("digits", batch_size, **options)


def test_data_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_sets.py").write_text(
        "import numpy as np\nfrom mindspore import dataset as ds\n"
        "def build(batch_size, seed, classes=2):\n"
        "    table = np.full((6, 1), seed, np.float32), np.zeros(6, np.int32)\n"
        "    train = ds.NumpySlicesDataset(table, ['x', 'y'], shuffle=False).batch(batch_size)\n"
        "    return {'train': train, 'validation': train, 'classes': ('a',) * classes}\n"
        "def wrong(**_):\n    return {'training': []}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = loaders("my_own_sets:build", 3, seed=7, classes=5)
    assert isinstance(found, Loaders) and len(found.classes) == 5
    assert rows(found.calibration)[0][0].tolist() == [[7.0]] * 3
    with pytest.raises(DataError, match="must return the fields of Loaders"):
        loaders("my_own_sets:wrong")
    with pytest.raises(InputError, match="did you mean 'build'"):
        loaders("my_own_sets:biuld")
