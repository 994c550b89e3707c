"""Photographs in files: the usual frame, and random parts of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._photos import PhotoBatches
from prunekit.core.data import FileSet, Splits

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batches(path: Path, augment: bool, size: int = 32) -> PhotoBatches:
    files = FileSet((path,), np.array([3]))
    return PhotoBatches(files, Splits(files, files, files, ("a",), MEAN, STD, "photos"), augment, size)


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("shape", [(40, 50), (333, 500), (97, 31), (32, 32)])
def test_the_middle_is_torchvisions(tmp_path: Path, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    import_torchvision()
    from torchvision import transforms

    path = write(tmp_path / "a.png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    images, labels = batches(path, augment=False)[np.zeros(1, np.int64), 0]
    steps = [transforms.Resize(37), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    np.testing.assert_allclose(images[0], transforms.Compose(steps)(Image.open(path)).numpy(), atol=1e-6)
    assert images.dtype == np.float32 and labels.tolist() == [3]


@pytest.mark.parametrize("shape", [(64, 64), (8, 300), (300, 8), (1, 1)])
def test_random_parts_lie_in_the_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    grey = write(tmp_path / "a.png", np.full((*shape, 3), 77, np.uint8))
    images, _ = batches(grey, augment=True)[np.zeros(40, np.int64), 1]
    flat = (np.float32(77 / 255) - np.array(MEAN)) / np.array(STD)
    # nothing from beyond the border, which would be black
    np.testing.assert_allclose(images, np.broadcast_to(flat[None, :, None, None], images.shape), atol=1e-5)


def test_random_parts_differ_in_place_size_and_side(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None] * 2, (100, 100, 3))
    source = batches(write(tmp_path / "a.png", np.ascontiguousarray(ramp)), augment=True)
    images, _ = source[np.zeros(200, np.int64), 1]
    slope = (images[:, 0, 16, -1] - images[:, 0, 16, 0]) * STD[0] * 255 / 2 / 31 * 32
    width = np.abs(slope)  # of the part, as a ramp of 2 a pixel shows it
    assert 70 < (slope < 0).sum() < 130
    assert width.min() < 45 and 85 < width.max() < 106
    middles = images[:, 0, 16, 16]
    assert middles.std() > 0.2
    again, _ = source[np.zeros(200, np.int64), 1]
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, source[np.zeros(200, np.int64), 2][0])
