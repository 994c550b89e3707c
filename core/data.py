"""Image sets by name, read from local files and split, as arrays that belong to no framework.

The validation set is always a held-out part of the training set, so that the test set is only
ever used to report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core._cifar import CLASSES, read_cifar10
from prunekit.core._idx import read_idx
from prunekit.core._names import nearest
from prunekit.core._resize import draw_evenly, resize_images
from prunekit.core.errors import DataError, MissingDependencyError

__all__ = ["DATASETS", "FileSet", "ImageSet", "Splits", "load_images"]

DATASETS = {
    "digits": "1,797 digits of 8x8, part of scikit-learn",
    "fashion-mnist": "70,000 pieces of clothing of 28x28",
    "fashion-mnist-or-digits": "Fashion-MNIST where it is installed, else digits",
    "cifar10": "60,000 photographs of 32x32 in 10 classes, binary or Python version",
    "imagefolder": "a folder of train/CLASS/*.jpg and val/CLASS/*.jpg, as ImageNet is kept, or of CLASS/*.jpg",
}

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
_MOST = 1 << 33  # bytes of images that are resized in memory
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Attributes:
        images: Bytes of shape ``(N, H, W, C)``.
        labels: Classes, int64 of shape ``(N,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at those positions."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class FileSet:
    """Images in files, decoded when they are needed.

    Attributes:
        paths: The files.
        labels: Classes, int64 of shape ``(N,)``.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> FileSet:
        """The files at those positions."""
        return FileSet(tuple(self.paths[i] for i in indices), self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """An image set in three parts.

    Attributes:
        train: What networks are trained on.
        validation: The part of the training set that is held out; candidates are scored on it.
        test: What is reported, and decides nothing.
        classes: Names of the classes.
        mean: Mean of each channel over ``train``, of values in [0, 1].
        std: Standard deviation of each channel.
        name: Which set it is.
    """

    train: ImageSet | FileSet
    validation: ImageSet | FileSet
    test: ImageSet | FileSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str


def load_images(
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Read an image set and split it.

    Nothing is downloaded. Without ``root`` the files are looked for in ``$PRUNEKIT_DATA``, ``./data``,
    ``~/.cache/prunekit`` and ``/usr/share/datasets``, each with the folder of the set's name in it.

    Example:
        >>> splits = load_images("digits", limit=100)
        >>> splits.train.images.shape, len(splits.classes)
        ((100, 8, 8, 1), 10)

    Args:
        name: One of :data:`DATASETS`; ``"auto"`` is ``"fashion-mnist-or-digits"``.
        root: Folder that holds the files.
        size: Resize to this height and width (not for ``"imagefolder"``, which the backend resizes).
        limit: Keep at most so many images of each part, drawn evenly from the classes.
        validation: Share of the training set that is held out, in (0, 1).
        seed: Seed of the split and of ``limit``. The test set never depends on it.

    Raises:
        DataError: The set is unknown, missing or malformed, or a part would be empty.
    """
    name = "fashion-mnist-or-digits" if name == "auto" else name
    if name not in DATASETS:
        raise DataError(f"a data set must be a known name, got {name!r}; {nearest(name, DATASETS)}")
    if not 0 < validation < 1:
        raise DataError(f"validation must lie in (0, 1), got {validation}; 0.1 holds a tenth out")
    for what, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise DataError(f"{what} must be at least 1, got {value}")
    train, test, classes, name = _read(name, root)
    if size is not None and isinstance(train, FileSet):
        raise DataError(f"size resizes images in memory, got {size} for {name!r}; give the backend an image size")
    count = max(1, round(len(train) * validation))
    if count >= len(train):
        raise DataError(f"a training set must hold more than {count} images to hold some out, got {len(train)}")
    held = draw_evenly(train.labels, count, seed)
    rest = np.setdiff1d(np.arange(len(train)), held)
    parts: list[Any] = [train.take(rest), train.take(held), test]
    if limit is not None:
        parts = [part.take(draw_evenly(part.labels, limit, seed)) for part in parts]
    if size is not None:
        if sum(map(len, parts)) * size**2 * parts[0].images.shape[-1] > _MOST:
            raise DataError(f"images in memory may have {_MOST:,} bytes, got more by size={size}; use a smaller size")
        parts = [ImageSet(resize_images(part.images, size), part.labels) for part in parts]
    mean, std = _statistics(parts[0])
    return Splits(parts[0], parts[1], parts[2], classes, mean, std, name)


def _read(name: str, root: str | Path | None) -> tuple[Any, Any, tuple[str, ...], str]:
    """Training set, test set, class names and the name of what was read."""
    if name == "fashion-mnist-or-digits":
        name = "digits" if _find("fashion-mnist", root, _has_fashion) is None else "fashion-mnist"
    if name == "digits":
        return (*_digits(), name)
    if name == "fashion-mnist":
        return (*_fashion_mnist(_require(name, root, _has_fashion)), _FASHION, name)
    if name == "cifar10":
        folder = _require(name, root, _has_cifar)
        train, test = read_cifar10(folder)
        return ImageSet(*train), ImageSet(*test), _cifar_classes(folder), name
    return (*_image_folder(root), name)


def _digits() -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("the digits need scikit-learn; run `pip install scikit-learn`") from error
    table = load_digits()
    images = np.rint(table.images * (255 / 16)).astype(np.uint8)[..., None]
    whole = ImageSet(images, table.target.astype(np.int64))
    # the set has no test part of its own: always the same fifth
    test = draw_evenly(whole.labels, len(whole) // 5, seed=0)
    train = np.setdiff1d(np.arange(len(whole)), test)
    return whole.take(train), whole.take(test), tuple(str(c) for c in range(10))


def _fashion_mnist(folder: Path) -> tuple[ImageSet, ImageSet]:
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_idx_file(folder, f"{part}-images-idx3-ubyte"), 3)
        labels = read_idx(_idx_file(folder, f"{part}-labels-idx1-ubyte"), 1).astype(np.int64)
        if len(images) != len(labels) or len(labels) == 0 or labels.max() >= len(_FASHION):
            raise DataError(
                f"{folder} must hold one label from 0 to 9 for each {part} image, got {len(images)} images and "
                f"{len(labels)} labels; fetch the files again"
            )
        parts.append(ImageSet(images[..., None], labels))
    return parts[0], parts[1]


def _idx_file(folder: Path, stem: str) -> Path:
    raw, packed = folder / stem, folder / f"{stem}.gz"
    return raw if raw.is_file() else packed


def _has_fashion(folder: Path) -> bool:
    return _idx_file(folder, "train-images-idx3-ubyte").is_file()


def _has_cifar(folder: Path) -> bool:
    return (folder / "data_batch_1.bin").is_file() or (folder / "data_batch_1").is_file()


def _cifar_classes(folder: Path) -> tuple[str, ...]:
    meta = folder / "batches.meta.txt"
    if not meta.is_file():
        return CLASSES
    names = tuple(meta.read_text(encoding="utf-8", errors="replace").split())
    return names if len(names) == len(CLASSES) else CLASSES


_INSIDE = {
    # the folder itself, its usual name, and where torchvision puts it
    "fashion-mnist": ("", "fashion-mnist", "FashionMNIST/raw"),
    "cifar10": ("", "cifar-10-batches-bin", "cifar-10-batches-py", "cifar10", "cifar-10"),
}
_ADVICE = {
    "fashion-mnist": "run `make data`, install the Debian package dataset-fashion-mnist, or put the four "
    "*-ubyte.gz files into data/fashion-mnist",
    "cifar10": "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz in data",
}


def _roots(root: str | Path | None) -> Iterable[Path]:
    if root is not None:
        return [Path(root).expanduser()]
    named = os.environ.get("PRUNEKIT_DATA")
    usual = [Path("data"), Path("~/.cache/prunekit").expanduser(), Path("/usr/share/datasets")]
    return [Path(named).expanduser(), *usual] if named else usual


def _find(name: str, root: str | Path | None, holds: Any) -> Path | None:
    for base in _roots(root):
        for inside in _INSIDE[name]:
            for folder in (base / inside, base / name / inside):
                if holds(folder):
                    return folder
    return None


def _require(name: str, root: str | Path | None, holds: Any) -> Path:
    found = _find(name, root, holds)
    if found is None:
        searched = ", ".join(str(base) for base in _roots(root))
        advice = _ADVICE[name] if root is None else f"give the folder that holds them, or no root and {_ADVICE[name]}"
        raise DataError(f"the files of {name} must be on this machine, got none in {searched}; {advice}")
    return found


def _image_folder(root: str | Path | None) -> tuple[FileSet, FileSet, tuple[str, ...]]:
    if root is None:
        raise DataError("an image folder needs root, got none; give the folder that holds train/CLASS and val/CLASS")
    base = Path(root).expanduser()
    tests = [base / part for part in ("val", "test") if (base / part).is_dir()]
    if (base / "train").is_dir() and tests:
        classes = _class_names(base / "train")
        return _index(base / "train", classes), _index(tests[0], classes), classes
    base = base / "train" if (base / "train").is_dir() else base
    classes = _class_names(base)
    whole = _index(base, classes)
    # without a test part: always the same tenth
    test = draw_evenly(whole.labels, max(1, len(whole) // 10), seed=0)
    return whole.take(np.setdiff1d(np.arange(len(whole)), test)), whole.take(test), classes


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not names:
        raise DataError(f"an image folder must hold a folder for each class, got {folder} without any")
    return tuple(names)


def _index(folder: Path, classes: tuple[str, ...]) -> FileSet:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = folder / name
        found = sorted(p for p in inside.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES) if inside.is_dir() else []
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"an image folder must hold images in its class folders, got none in {folder}")
    return FileSet(tuple(paths), np.array(labels, dtype=np.int64))


def _statistics(train: ImageSet | FileSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(train, FileSet):  # not worth decoding every file: the usual figures for photographs
        return _IMAGENET_MEAN, _IMAGENET_STD
    pixels = train.images.reshape(-1, train.images.shape[-1])
    # exact from counts of the 256 values, without a float copy of the images
    means, stds = [], []
    for channel in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, channel], minlength=256).astype(np.float64)
        share, values = counts / counts.sum(), np.arange(256) / 255
        mean = float(share @ values)
        means.append(mean)
        stds.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1e-3))
    return tuple(means), tuple(stds)
