"""Image sets: their file formats, their splits, and the loaders made of them."""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunekit.backend_torch.data import Loaders, loaders
from prunekit.core._idx import read_idx
from prunekit.core._resize import draw_evenly, resize_images
from prunekit.core.data import load_images
from prunekit.core.errors import DataError, InputError


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder: Path, rng: np.random.Generator, suffix: str = ".gz") -> None:
    for part, count in (("train", 200), ("t10k", 50)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)


def cifar_parts(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {n: (rng.integers(0, 256, (20, 3072), dtype=np.uint8), np.arange(20) % 10) for n in names}


# ---- formats ----


def test_digits_need_no_files() -> None:
    splits = load_images("digits")
    assert splits.train.images.shape == (1294, 8, 8, 1) and len(splits.validation) == 144 and len(splits.test) == 359
    assert splits.train.images.dtype == np.uint8 and splits.train.images.max() == 255
    assert splits.classes == tuple("0123456789")


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("inside", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_packed_raw_and_where_torchvision_puts_it(
    tmp_path: Path, rng: np.random.Generator, suffix: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path / inside, rng, suffix)
    splits = load_images("fashion-mnist", root=tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (180, 20, 50)
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path))
    assert load_images("auto").name == "fashion-mnist"


def test_without_fashion_mnist_auto_gives_digits(tmp_path: Path) -> None:
    assert load_images("auto", root=tmp_path).name == "digits"
    with pytest.raises(DataError, match="give the folder that holds them, or no root .*dataset-fashion-mnist"):
        load_images("fashion-mnist", root=tmp_path)


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Fashion-MNIST is not installed")
def test_the_real_fashion_mnist() -> None:
    splits = load_images("fashion-mnist", root="/usr/share/datasets")
    assert splits.train.images.shape == (54000, 28, 28, 1) and len(splits.test) == 10000
    assert np.bincount(splits.validation.labels).tolist() == [600] * 10
    assert splits.mean[0] == pytest.approx(0.286, abs=0.001) and splits.std[0] == pytest.approx(0.353, abs=0.001)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda b: b[:-1], "must hold 5600 values"),
        (lambda b: b + b"\0", "must hold 5600 values .* got more"),
        (lambda b: b[:7], "must begin like an IDX file"),
        (lambda b: b"\0\0\x0d\x03" + b[4:], "00 00 08 03"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "may hold up to"),
        (lambda b: b"", "must begin like an IDX file"),
    ],
)
def test_a_broken_idx_file(tmp_path: Path, spoil: Any, message: str) -> None:
    path = tmp_path / "images"
    write_idx(path, np.zeros((100, 7, 8)))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        read_idx(path, 3)


def test_a_truncated_gzip_file(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "images.gz"
    write_idx(path, rng.integers(0, 256, (100, 7, 8)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="readable and whole"):
        read_idx(path, 3)
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="readable and whole"):
        read_idx(path, 3)


def test_cifar10_binary(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = cifar_parts(rng)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (rows, labels) in parts.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    splits = load_images("cifar10", root=tmp_path)
    assert len(splits.train) + len(splits.validation) == 100
    rows, labels = parts["test_batch"]
    np.testing.assert_array_equal(splits.test.labels, labels)
    np.testing.assert_array_equal(splits.test.images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    (folder / "test_batch.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DataError, match="records of 3073 bytes"):
        load_images("cifar10", root=tmp_path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_cifar10_python(tmp_path: Path, rng: np.random.Generator, protocol: int, as_bytes: bool) -> None:
    parts = cifar_parts(rng)
    for name, (rows, labels) in parts.items():
        table = {"batch_label": "b", "data": rows, "labels": labels.tolist(), "filenames": ["x.png"] * 20}
        stored = {k.encode(): v for k, v in table.items()} if as_bytes else table
        (tmp_path / name).write_bytes(pickle.dumps(stored, protocol=protocol))
    splits = load_images("cifar10", root=tmp_path)
    rows, labels = parts["test_batch"]
    np.testing.assert_array_equal(splits.test.labels, labels)
    np.testing.assert_array_equal(splits.test.images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def test_cifar10_as_python_2_wrote_it(tmp_path: Path, rng: np.random.Generator) -> None:
    """Byte strings as SHORT_BINSTRING and BINSTRING, which Python 3 does not write any more."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    rows, labels = cifar_parts(rng)["test_batch"]
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01(K\x14M\x00\x0ct" + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([int(i)]) for i in labels) + b"e"
    content = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."
    pickletools.dis(content, io.StringIO())  # raises where the bytes are no whole pickle
    for name in cifar_parts(rng):
        (tmp_path / name).write_bytes(content)
    splits = load_images("cifar10", root=tmp_path)
    np.testing.assert_array_equal(splits.test.images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    "content, message",
    [
        (pickle.dumps({"data": _Evil(), "labels": [1]}), "plain data only"),
        (b"cos\nsystem\n(S'touch evil'\ntR.", "plain data only"),
        (pickle.dumps({"data": np.array([{}], dtype=object), "labels": [1]}, protocol=2), "arrays of integers"),
        (pickle.dumps({"data": np.zeros((1, 3072)), "labels": [1]}, protocol=2), "arrays of integers"),
        (pickle.dumps({"data": np.zeros((1, 30), np.uint8), "labels": [1]}, protocol=2), "one label for each image"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2), "labels from 0 to 9"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, protocol=2), "a list of numbers"),
        (pickle.dumps({"labels": [1]}), "must hold 'data'"),
        (pickle.dumps([1, 2]), "must hold a dict"),
        (b"\x80\x02}(U", "broken file"),
        (b"", "broken file"),
    ],
)
def test_a_cifar10_file_that_is_broken_or_hostile(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_images("cifar10", root=tmp_path)
    assert not (tmp_path / "evil").exists()


# ---- splits ----


def test_parts_are_disjoint_even_and_repeatable() -> None:
    whole = load_images("digits")
    again = load_images("digits")
    other = load_images("digits", seed=1)
    np.testing.assert_array_equal(whole.validation.images, again.validation.images)
    assert not np.array_equal(whole.validation.images, other.validation.images)
    np.testing.assert_array_equal(whole.test.images, other.test.images)
    rows = [{image.tobytes() for image in part.images} for part in (whole.train, whole.validation, whole.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert np.ptp(np.bincount(whole.validation.labels)) <= 2


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_an_even_draw(sizes: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    count = int(share * len(labels))
    drawn = draw_evenly(labels, count, seed)
    assert len(drawn) == count and len(set(drawn.tolist())) == count
    found = np.bincount(labels[drawn], minlength=len(sizes))
    assert np.all(np.abs(found - np.array(sizes) * count / len(labels)) < 1)


def test_resizing_averages_areas_and_keeps_flat_images() -> None:
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 10
    np.testing.assert_array_equal(resize_images(images, 2)[0, :, :, 0], np.array([[25, 45], [105, 125]]))
    for size in (1, 3, 5, 8):
        assert np.all(resize_images(np.full((2, 4, 6, 3), 77, np.uint8), size) == 77)
    assert load_images("digits", size=14, limit=20).train.images.shape == (20, 14, 14, 1)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("fashion_mist", {}, "did you mean 'fashion-mnist'"),
        ("digits", {"validation": 1.0}, r"validation must lie in \(0, 1\), got 1.0"),
        ("digits", {"size": 0}, "size must be at least 1, got 0"),
        ("imagefolder", {}, "an image folder needs root"),
    ],
)
def test_wrong_questions(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(name, **options)


# ---- loaders ----


def test_batches_are_normalised_and_repeatable() -> None:
    splits = load_images("digits")
    first, again = (loaders(splits, 64, augment=True) for _ in range(2))
    images = torch.cat([x for x, _ in loaders(splits, 1294).calibration])
    assert images.shape == (1294, 1, 8, 8) and images.dtype == torch.float32
    assert images.mean().abs() < 1e-4 and images.std() == pytest.approx(1, abs=1e-3)
    passes = [torch.cat([x for x, _ in loader.train]) for loader in (first, again)]
    assert torch.equal(*passes) and len(passes[0]) == 1294 // 64 * 64
    assert not torch.equal(torch.cat([x for x, _ in first.train]), passes[0])  # the next epoch differs
    first.train.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([x for x, _ in first.train]), passes[0])
    for part in ("validation", "test", "calibration"):
        one, two = (torch.cat([x for x, _ in getattr(first, part)]) for _ in range(2))
        assert torch.equal(one, two)
    assert sum(len(y) for _, y in first.test) == len(splits.test)
    assert first.shape == (1, 8, 8) and len(first.classes) == 10


def test_augmentation_shifts_and_mirrors() -> None:
    splits = load_images("digits", limit=200)
    plain, moved = (next(iter(loaders(splits, 128, augment=flag).train)) for flag in (False, True))
    assert torch.equal(plain[1], moved[1]) and plain[0].shape == moved[0].shape
    same = [torch.equal(a, b) for a, b in zip(plain[0], moved[0], strict=True)]
    assert 0 < sum(same) < 40  # an eighteenth stays where it was
    for image, result in zip(plain[0][:8], moved[0][:8], strict=True):
        padded = torch.nn.functional.pad(image, (1,) * 4)
        windows = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        assert any(torch.equal(result, w) or torch.equal(result, w.flip(-1)) for w in windows)


def image_folder(root: Path, rng: np.random.Generator, parts: dict[str, int]) -> None:
    for part, count in parts.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.{'png' if i % 2 else 'JPEG'}")


@pytest.mark.parametrize("parts", [{"train": 10, "val": 4}, {"": 12}])
def test_an_image_folder(tmp_path: Path, rng: np.random.Generator, parts: dict[str, int]) -> None:
    image_folder(tmp_path, rng, parts)
    splits = load_images("imagefolder", root=tmp_path, seed=3)
    files = [p for part in (splits.train, splits.validation, splits.test) for p in part.paths]  # type: ignore[union-attr]
    assert len(set(files)) == len(files) == 2 * sum(parts.values())
    assert load_images("imagefolder", root=tmp_path).test.paths == splits.test.paths  # type: ignore[union-attr]
    found = loaders("imagefolder", 4, root=tmp_path, image_size=32, augment=True)
    assert found.shape == (3, 32, 32) and found.classes == ("cat", "dog")
    images, labels = next(iter(found.train))
    assert images.shape == (4, 3, 32, 32) and labels.dtype == torch.int64
    other = loaders("imagefolder", 4, root=tmp_path, image_size=32, augment=True, workers=1)
    assert torch.equal(next(iter(other.train))[0], images)  # workers do not change the numbers
    assert sum(len(y) for _, y in found.test) == (8 if "val" in parts else 2)


def test_a_broken_image_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    image_folder(tmp_path, rng, {"train": 6, "val": 1})
    (tmp_path / "val" / "cat" / "0.JPEG").write_bytes(b"not an image")
    found = loaders("imagefolder", 4, root=tmp_path, image_size=32)
    with pytest.raises(DataError, match=r"an image file must be readable, got .*0\.JPEG"):
        list(found.test)


def test_a_set_smaller_than_a_batch() -> None:
    with pytest.raises(DataError, match="must fill a batch, got 50 images for batch_size=64"):
        loaders("digits", 64, limit=50)


def test_data_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text(
        "import torch\n"
        "def build(batch_size, seed, classes=2):\n"
        "    batch = (torch.full((batch_size, 1), float(seed)), torch.zeros(batch_size).long())\n"
        "    return {'train': [batch], 'validation': [batch], 'classes': ('a',) * classes}\n"
        "def wrong(**_):\n    return {'training': []}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = loaders("my_own_data:build", 3, seed=7, classes=5)
    assert isinstance(found, Loaders) and len(found.classes) == 5
    assert list(found.calibration)[0][0].tolist() == [[7.0]] * 3
    with pytest.raises(DataError, match="must return the fields of Loaders"):
        loaders("my_own_data:wrong")
    with pytest.raises(InputError, match="did you mean 'build'"):
        loaders("my_own_data:biuld")
