"""Each data set from files of its real format to shards; and each kind of damage is one line with the file and byte."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from model import image_files
from model.config import REGISTRY
from model.config.data_recipe import Options
from model.data import load, manifest
from model.data.formats import cifar, mnist
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.errors import DataError, SetupError
from tests.support.data_files import (
    Pixels,
    add,
    cifar_batches,
    crops,
    mini_mnist,
    png,
    write_amat,
    write_cifar,
    write_mnist,
    write_npz_zip,
    write_png_tar,
)


def made(name: str, source: Path, out: Path, **options: object) -> manifest.Manifest:
    result, folder, done = prepare(name, Options(source=str(source), out=out, unverified=True, **options))  # type: ignore[arg-type]
    assert done
    assert verify(folder) == result
    return result


def images(out: Path, split: str) -> Pixels:
    return load(str(out)).split(split).transpose(0, 2, 3, 1)  # type: ignore[arg-type]


def refusal(name: str, source: Path, tmp_path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        made(name, source, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()  # nothing that is half there is taken for whole
    return str(caught.value)


def small(folder: Path, side: int = 32, train: int = 9, valid: int = 4) -> Path:
    write_png_tar(folder / f"train_{side}x{side}.tar", crops(train, side), f"train_{side}x{side}")
    write_png_tar(folder / f"valid_{side}x{side}.tar", crops(valid, side, seed=1), f"valid_{side}x{side}")
    return folder


def box(folder: Path) -> Path:
    batches = {f"train_data_batch_{number}.npz": crops(3, 32, seed=number) for number in (10, 2, 1)}
    write_npz_zip(folder / "Imagenet32_train_npz.zip", batches)
    write_npz_zip(folder / "Imagenet32_val_npz.zip", {"val_data.npz": crops(4, 32)})
    return folder


def test_mnist_as_published_keeps_every_pixel(tmp_path: Path) -> None:
    write_amat(tmp_path / "in")
    made("mnist-static", tmp_path / "in", tmp_path / "out")
    gray, _ = mini_mnist(60)
    assert np.array_equal(images(tmp_path / "out", "train")[..., 0], gray[:40] >= 128)
    assert np.array_equal(images(tmp_path / "out", "test")[..., 0], gray[50:] >= 128)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_of_idx_files_is_three_data_sets(packed: bool, tmp_path: Path) -> None:
    write_mnist(tmp_path / "in", packed=packed)
    gray, labels = mini_mnist(72)
    made("mnist-threshold", tmp_path / "in", tmp_path / "threshold")
    assert np.array_equal(images(tmp_path / "threshold", "train")[..., 0], gray[:50] >= 128)
    made("mnist-static-own", tmp_path / "in", tmp_path / "static")
    drawn = images(tmp_path / "static", "train")[..., 0]
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn[gray[:50] == 0].max() == 0
    assert drawn[gray[:50] == 255].min() == 1
    between = (gray[:50] > 100) & (gray[:50] < 156)
    assert 0.4 < drawn[between].mean() < 0.6
    dynamic = made("mnist-dynamic", tmp_path / "in", tmp_path / "dynamic")
    assert (dynamic.image.levels, dynamic.binarise, dynamic.splits) == (
        2,
        "dynamic",
        {"train": 50, "valid": 10, "test": 12},
    )
    valid = [images(tmp_path / "dynamic", "valid") for _ in range(2)]
    assert np.array_equal(*valid)  # one fixed draw
    assert set(np.unique(valid[0])) == {0, 1}
    rows = load(str(tmp_path / "dynamic")).files("train").rows(np.arange(50))  # type: ignore[union-attr]
    assert np.array_equal(rows["label"], labels[:50])


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar_10_is_the_same_out_of_bytes_and_pickles(pickled: bool, tmp_path: Path) -> None:
    name = "cifar-10-python.tar.gz" if pickled else "cifar-10-binary.tar.gz"
    write_cifar(tmp_path / name, pickled=pickled)
    result = made("cifar10", tmp_path / name, tmp_path / "out", holdout=6)
    batches = cifar_batches(10)
    train = np.concatenate([batch for batch, _ in batches[:-1]])
    assert result.splits == {"train": 44, "valid": 6, "test": 10}
    assert np.array_equal(images(tmp_path / "out", "train"), train[:44])
    assert np.array_equal(images(tmp_path / "out", "valid"), train[44:])
    assert np.array_equal(images(tmp_path / "out", "test"), batches[-1][0])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_papers_imagenet_keeps_every_pixel_whatever_the_tar(form: int, tmp_path: Path) -> None:
    small(tmp_path)
    write_png_tar(
        tmp_path / "train_32x32.tar", crops(9, 32), "a" * 90 + "/" + "b" * 80 if form else "train_32x32", form
    )
    assert made("imagenet-small-32", tmp_path, tmp_path / "out").splits == {"train": 9, "valid": 4}
    assert np.array_equal(images(tmp_path / "out", "train"), crops(9, 32))


def test_the_box_filtered_imagenet_is_another_data_set(tmp_path: Path) -> None:
    result = made("imagenet-box-32", box(tmp_path), tmp_path / "out")
    assert (result.name, result.splits) == ("imagenet-box-32", {"train": 9, "valid": 4})
    wanted = np.concatenate([crops(3, 32, seed=number) for number in (1, 2, 10)])  # by number, not by name
    assert np.array_equal(images(tmp_path / "out", "train"), wanted)


def test_images_of_ones_own_are_cut_to_the_middle_and_averaged(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        (tmp_path / "in" / split / "cats").mkdir(parents=True)
        for number, image in enumerate(crops(count, 64)):
            wide = np.concatenate([np.zeros_like(image[:, :20]), image, np.zeros_like(image[:, :20])], axis=1)
            (tmp_path / "in" / split / "cats" / f"{number}.png").write_bytes(png(wide))
    result = made("images", tmp_path / "in", tmp_path / "out", size=16, levels=8)
    assert result.splits == {"train": 3, "valid": 2, "test": 1}
    mean = crops(3, 64).astype(float).reshape(3, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    got = images(tmp_path / "out", "train")
    assert np.abs(got - np.floor(mean / 32)).max() <= 1
    assert got.max() < 8
    assert made("images", tmp_path / "in", tmp_path / "gray", size=16, channels=1).image.channels == 1


def test_images_without_folders_are_shared_out_by_their_place(tmp_path: Path) -> None:
    write_png_tar(tmp_path / "mine.tar", crops(40, 8), "mine")
    assert made("images", tmp_path / "mine.tar", tmp_path / "out", size=8).splits == {
        "train": 36,
        "valid": 2,
        "test": 2,
    }


def test_the_published_files_are_told_by_their_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_amat(tmp_path)
    with pytest.raises(DataError, match=r"train.amat has 62,720 bytes, the published one 78,400,000; fetch it again"):
        prepare("mnist-static", Options(source=str(tmp_path), out=tmp_path / "out"))
    from dataclasses import replace

    from model.data.digest import sha256_of

    entry = REGISTRY["mnist-static"]
    files = tuple(
        replace(file, bytes=(tmp_path / file.name).stat().st_size, sha256=sha256_of(tmp_path / file.name))
        for file in entry.files
    )
    monkeypatch.setattr("model.config.data_recipe.REGISTRY", {entry.name: replace(entry, files=files)})
    result, _, _ = prepare("mnist-static", Options(source=str(tmp_path), out=tmp_path / "out"))
    assert result.published
    assert result.sources[0]["sha256"] == files[0].sha256
    path = tmp_path / files[1].name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"valid.amat is not the published file: its sha256 is \w{64}, not \w{64}"):
        prepare("mnist-static", Options(source=str(tmp_path), out=tmp_path / "again"))
    shutil.copy(path, tmp_path / "other.amat")
    with pytest.raises(DataError, match=r"mnist-static needs 3 files"):
        prepare("mnist-static", Options(source=str(tmp_path / "other.amat"), out=tmp_path / "again"))


def alter(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


def patched(at: int, new: bytes) -> Callable[[bytearray], bytearray]:
    def change(content: bytearray) -> bytearray:
        content[at : at + len(new)] = new
        return content

    return change


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "train-images-idx3-ubyte",
            patched(3, b"\x01"),
            r"train-images-idx3-ubyte: byte 0: the magic number is 00000801",
        ),
        (
            "train-images-idx3-ubyte",
            lambda c: c[:-5],
            r"is cut off: it ends at byte 47051, its header gives 47056 bytes",
        ),
        ("train-images-idx3-ubyte", lambda c: c[:9], r"is cut off: it ends at byte 9 inside its header"),
        ("train-images-idx3-ubyte", lambda c: b"", r"byte 0: the magic number is nothing"),
        ("train-images-idx3-ubyte", lambda c: c + b"x", r"byte 47056: 1 bytes follow the last value"),
        ("train-images-idx3-ubyte", patched(8, b"\0\0\0\x0e"), r"the file is damaged|the images are 14x28"),
        (
            "t10k-labels-idx1-ubyte",
            patched(11, b"\x0c"),
            r"t10k-labels-idx1-ubyte: byte 11: label 12 is outside 0 to 9",
        ),
        ("t10k-labels-idx1-ubyte", patched(7, b"\x0b"), r"gives|follow the last value"),
    ],
)
def test_a_damaged_idx_names_file_and_byte(
    name: str, change: Callable[[bytearray], bytes], says: str, tmp_path: Path
) -> None:
    folder = write_mnist(tmp_path / "in", packed=False)
    alter(folder / name, change)
    with pytest.raises(DataError, match=says):
        made("mnist-threshold", folder, tmp_path / "out")


def test_labels_and_images_must_be_as_many(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "in", packed=False)
    shutil.copy(folder / "t10k-labels-idx1-ubyte", folder / "train-labels-idx1-ubyte")
    assert "train-labels-idx1-ubyte: byte 4: 12 labels for 60 images" in refusal("mnist-dynamic", folder, tmp_path)


def test_a_damaged_gzip_names_the_byte(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "in")
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    says = "train-images-idx3-ubyte.gz is cut off: it ends at byte 2000 inside its gzip data"
    assert says in refusal("mnist-dynamic", folder, tmp_path)
    alter(path, lambda _: patched(len(whole) - 8, b"\0\0\0\0")(bytearray(whole)))
    assert "is damaged after byte" in refusal("mnist-dynamic", folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c[:-1], "is cut off: it ends at byte 15679, which is not a multiple of 1568 (one row)"),
        (patched(1568 + 40, b"2"), "byte 1608: '2' does not fit rows of 784"),
        (patched(1567, b" "), "byte 1567: ' ' does not fit"),
        (lambda c: b"", "is cut off: it ends at byte 0"),
    ],
)
def test_a_damaged_amat_names_the_byte(change: Callable[[bytearray], bytes], says: str, tmp_path: Path) -> None:
    folder = write_amat(tmp_path / "in")
    alter(folder / "binarized_mnist_valid.amat", change)
    assert f"binarized_mnist_valid.amat{':' if says.startswith('byte') else ''} {says}" in refusal(
        "mnist-static", folder, tmp_path
    )


def cifar_tar(path: Path, change: Callable[[bytes], bytes], name: str = "test_batch.bin") -> Path:
    whole = {}
    with tarfile.open(write_cifar(path)) as tar:
        for member in tar:
            opened = tar.extractfile(member)
            assert opened is not None
            whole[member.name] = opened.read()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for key, content in whole.items():
            add(tar, key, change(content) if key.endswith(name) else content)
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c[:-1],
            "test_batch.bin is cut off: it ends at byte 30729, which is not a multiple of 3073 (one image)",
        ),
        (lambda c: b"", "test_batch.bin is cut off: it ends at byte 0"),
        (lambda c: c[:3073] + b"\x0a" + c[3074:], "test_batch.bin: byte 3073: label 10 is outside 0 to 9"),
    ],
)
def test_damaged_cifar_batches_name_the_byte(change: Callable[[bytes], bytes], says: str, tmp_path: Path) -> None:
    assert says in refusal("cifar10", cifar_tar(tmp_path / "cifar-10-binary.tar.gz", change), tmp_path)


def test_a_batch_that_is_missing_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        add(tar, "cifar-10-batches-bin/data_batch_1.bin", b"\0" * 3073)
    assert "has no data_batch_2.bin" in refusal("cifar10", tmp_path / "cifar-10-binary.tar.gz", tmp_path)


class Payload:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pickle-was-run",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_with_any_other_global_is_refused(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for bad in (Payload(), {b"data": Payload()}, np.random.default_rng):
        with pytest.raises(
            DataError, match=r"data_batch_1: the pickle refers to \S+, which a data set does not need; not read"
        ):
            cifar.unpickle("data_batch_1", pickle.dumps(bad, protocol=protocol))
    assert list(tmp_path.iterdir()) == [], "it was run"
    pickle.loads(pickle.dumps(Payload(), protocol=protocol))  # noqa: S301 - our own: it shows that the payload works
    assert [path.name for path in tmp_path.iterdir()] == ["pickle-was-run"], (
        "and with a plain reader it would have been"
    )
    good = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    if protocol < 5:
        assert cifar.unpickle("b", pickle.dumps(good, protocol=protocol))[b"labels"] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"x", pickle.dumps({b"a": 1}, protocol=2)[:-3], pickle.dumps([1])])
def test_what_is_no_pickle_of_a_batch_is_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match="data_batch_1"):
        cifar.unpickle("data_batch_1", content)


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]},
        {b"data": np.zeros((2, 3072), np.uint8)},
    ],
)
def test_a_pickled_batch_of_another_form_is_refused(batch: dict[bytes, object]) -> None:
    with pytest.raises(DataError, match=r"data_batch_1(:| is not a batch)"):
        cifar.pickled_batch("data_batch_1", pickle.dumps(batch, protocol=2))


def test_a_png_of_another_size_is_named_with_its_place(tmp_path: Path) -> None:
    small(tmp_path)
    with tarfile.open(tmp_path / "train_32x32.tar", "w") as tar:
        add(tar, "train_32x32/1.png", png(crops(1, 32)[0]))
        add(tar, "train_32x32/2.png", png(crops(1, 31)[0]))
    text = refusal("imagenet-small-32", tmp_path, tmp_path)
    assert "train_32x32.tar: byte " in text
    assert "train_32x32/2.png: the image is 31x31, not 32x32" in text


def test_a_damaged_png_is_named_with_its_place(tmp_path: Path) -> None:
    small(tmp_path)
    whole = png(crops(1, 32)[0])
    for broken in (whole[:-200], whole[:60] + bytes(8) + whole[68:], b"", b"GIF89a"):
        with tarfile.open(tmp_path / "train_32x32.tar", "w") as tar:
            add(tar, "train_32x32/1.png", broken)
        assert "train_32x32.tar: byte 0: train_32x32/1.png: " in refusal("imagenet-small-32", tmp_path, tmp_path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (member("../evil.png"), "the name '../evil.png' points outside the folder; not read"),
        (member("a/../../evil.png"), "points outside the folder"),
        (member("/etc/evil.png"), "points outside the folder"),
        (member("a.png", tarfile.SYMTYPE, "/etc/passwd"), "'a.png' is a link; not read"),
        (member("a.png", tarfile.LNKTYPE, "b.png"), "'a.png' is a link; not read"),
        (member("a.png", tarfile.FIFOTYPE), "'a.png' is not a file; not read"),
    ],
)
def test_a_tar_that_means_harm_is_refused(info: tarfile.TarInfo, says: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        add(tar, "good.png", png(crops(1, 8)[0]))
        tar.addfile(info)
    assert says in refusal("images", tmp_path / "mine.tar", tmp_path, size=8)


def test_a_damaged_tar_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    path = write_png_tar(tmp_path / "mine.tar", crops(30, 8), "mine")
    whole = path.read_bytes()
    third = whole.index(b"mine/0000003.png")
    path.write_bytes(patched(third + 20, b"\xff\xff")(bytearray(whole)))
    assert f"mine.tar is damaged: byte {third}: the checksum of the header differs" in refusal(
        "images", path, tmp_path, size=8
    )
    for cut in (third + 100, third + 700, len(whole) - 10240):
        path.write_bytes(whole[:cut])
        assert "is cut off: it ends at byte" in refusal("images", path, tmp_path, size=8)
    path.write_bytes(b"PK\x03\x04" * 400)
    assert "mine.tar is damaged or is not a zip file" in refusal("images", path, tmp_path, size=8)
    path.write_bytes(b"PNG " * 400)
    assert "mine.tar is not a tar: byte 0" in refusal("images", path, tmp_path, size=8)


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a tar with any field for the size."""
    head = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    head[124:136], head[156:157], head[148:156] = size, kind, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pax(size: bytes) -> bytes:
    """A pax header that says the size of what follows."""
    bare = b" size=" + size + b"\n"
    length = len(bare) + len(str(len(bare) + len(str(len(bare)))))
    record = str(length).encode() + bare
    return header("pax", b"%011o\0" % len(record), b"x") + record + bytes(-len(record) % 512)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            header("a.png", b"\x80" + (2**80).to_bytes(11, "big")),
            f"byte 0: a file of {2**80} bytes; the tar is damaged",
        ),
        (header("a.png", b"\xff" * 12), "byte 0: a file of"),  # below zero, to GNU
        (header("a.png", b"\x80" + (2**50).to_bytes(11, "big")), "a.png of 1,125,899,906,842,624 bytes is too large"),
        (header("a.png", b"\x80" + (2**29).to_bytes(11, "big")), "is cut off: it ends at byte 2048 inside a.png"),
        (header("a.png", b"-0000000001\0"), "byte 0: a header field is not a number"),
        (header("a.png", b"0000_000001\0"), "byte 0: a header field is not a number"),
        (pax(b"9" * 5000) + header("a.png", b"%011o\0" % 0), "byte 0: an invalid pax header; the tar is damaged"),
        (pax(b"9" * 20) + header("a.png", b"%011o\0" % 0), f"byte 1024: a file of {'9' * 20} bytes"),
        (pax("²".encode()) + header("a.png", b"%011o\0" % 0), "byte 0: an invalid pax header"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_lies_about_a_size_is_one_line(head: bytes, says: str, packed: bool, tmp_path: Path) -> None:
    content = head + bytes(1536)
    path = tmp_path / "mine.tar"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert says in refusal("images", path, tmp_path, size=8)


def test_a_pax_header_that_is_right_is_followed(tmp_path: Path) -> None:
    image = png(crops(1, 8)[0])
    body = image + bytes(-len(image) % 512)
    (tmp_path / "mine.tar").write_bytes(pax(b"%d" % len(image)) + header("a.png", b"%011o\0" % 0) + body + bytes(1024))
    made("images", tmp_path / "mine.tar", tmp_path / "out", size=8)
    assert np.array_equal(images(tmp_path / "out", "train"), crops(1, 8))


def saved(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


LABELS = np.array([1, 1000])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            saved(data=np.array([{"a": 1}], object), labels=LABELS[:1]),
            "'data' holds objects, whose loading can run code; not read",
        ),
        (saved(data=np.zeros((2, 3072), np.float32), labels=LABELS), "'data' is float32 of shape"),
        (
            saved(data=np.zeros((2, 100), np.uint8), labels=LABELS),
            "'data' has 100 values per image, not 3072 (32x32x3)",
        ),
        (saved(data=np.zeros((2, 3072), np.uint8, order="F"), labels=LABELS), "not 2-dimensional uint8 in C order"),
        (saved(images=np.zeros((2, 3072), np.uint8), labels=LABELS), "has no array 'data'"),
        (saved(data=np.zeros((2, 3072), np.uint8)), "has no array 'labels'"),
        (saved(data=np.zeros((2, 3072), np.uint8), labels=np.array([1])), "1 labels for 2 images"),
        (
            saved(data=np.zeros((2, 3072), np.uint8), labels=np.array([1, 1001])),
            "image 1: label 1001 is outside 1 to 1000",
        ),
        (saved(data=np.zeros((2, 3072), np.uint8), labels=np.array([0, 5])), "image 0: label 0 is outside 1 to 1000"),
        (saved(data=np.zeros((2, 3072), np.uint8), labels=np.array([1, None])), "'labels' holds objects"),
        (b"no zip at all", "is damaged or is not a zip file"),
    ],
)
def test_an_npz_that_is_none_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    box(tmp_path)
    with zipfile.ZipFile(tmp_path / "Imagenet32_val_npz.zip", "w") as out:
        out.writestr("val_data.npz", content)
    assert says in refusal("imagenet-box-32", tmp_path, tmp_path)


@pytest.mark.parametrize("count", [2, 2**40, 2**62])
def test_labels_that_are_cut_off_are_one_line(count: int, tmp_path: Path) -> None:
    box(tmp_path)
    data, head, out = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(data, np.zeros((2, 3072), np.uint8))
    np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(out, "w") as inner:
        inner.writestr("data.npy", data.getvalue())
        inner.writestr("labels.npy", head.getvalue() + bytes(12))
    with zipfile.ZipFile(tmp_path / "Imagenet32_val_npz.zip", "w") as outer:
        outer.writestr("val_data.npz", out.getvalue())
    says = f"Imagenet32_val_npz.zip:val_data.npz: 'labels' is cut off: it has fewer than {count:,} numbers"
    assert refusal("imagenet-box-32", tmp_path, tmp_path) == says


def test_a_cut_or_flipped_zip_is_refused(tmp_path: Path) -> None:
    box(tmp_path)
    path = tmp_path / "Imagenet32_val_npz.zip"
    whole = path.read_bytes()
    for change in (whole[:-50], whole[: len(whole) // 2], whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:]):
        path.write_bytes(change)
        assert "is damaged or is not a zip file" in refusal("imagenet-box-32", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nosuch", {}, "no data set 'nosuch'; see: pixel-orch data list"),
        ("cifar-10", {}, "no data set 'cifar-10'; did you mean cifar10"),
        ("images", {}, "images reads your own files; give them with --source PATH"),
        ("images", {"source": "/nowhere"}, "/nowhere does not exist; check --source"),
        ("mnist-static", {"holdout": 5}, "--holdout does not apply to mnist-static; omit it"),
        ("mnist-static", {"source": "/nowhere"}, "/nowhere does not exist"),
        ("cifar10", {"cameras": "all"}, "--cameras does not apply to cifar10"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(name: str, options: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(name, Options(out=tmp_path / "out", **options))  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_a_gzip_in_several_pieces_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    gray, _ = mini_mnist(60)
    content = mnist.MAGIC[3] + b"".join(n.to_bytes(4, "big") for n in gray.shape) + gray.tobytes()
    path.write_bytes(gzip.compress(content[:999]) + gzip.compress(content[999:]) + b"\0" * 512)
    assert np.array_equal(mnist.read_idx(path, 3), gray)
    # Padding that goes beyond the block in which a member ends, between members and behind the last.
    path.write_bytes(gzip.compress(content[:999]) + bytes(3 << 20) + gzip.compress(content[999:]) + bytes(2 << 20))
    assert np.array_equal(mnist.read_idx(path, 3), gray)
    alter(path, lambda c: c + b"no gzip")
    with pytest.raises(DataError, match=f"is damaged after byte {path.stat().st_size - 7}"):
        mnist.read_idx(path, 3)


def wide_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a value, gray or RGB, (N, N) or (N, N, 3): by hand, since Pillow writes only gray ones."""
    high = values.astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in high)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", high.shape[1], high.shape[0], 16, 0 if high.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pictures.fromarray(array).save(out, "TIFF")
    return out.getvalue()


WIDE = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gray.png", wide_png(WIDE)),
        ("colour.png", wide_png(np.stack([WIDE] * 3, axis=2))),
        ("little.tif", tiff(WIDE)),
        ("big.tif", tiff(WIDE.astype(">u2"))),
        ("gray.ppm", b"P5 8 8 65535\n" + WIDE.astype(">u2").tobytes()),
    ],
)
def test_sixteen_bits_keep_their_upper_eight(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    for channels in (1, 3):
        made("images", tmp_path / "in", tmp_path / str(channels), size=8, channels=channels)
        got = images(tmp_path / str(channels), "train")[0]
        assert np.array_equal(got, (WIDE >> 8)[..., None].repeat(channels, axis=2))


@pytest.mark.parametrize("array", [WIDE.astype(np.int32), WIDE.astype(np.float32)])
def test_32_bits_are_refused_and_never_clipped(array: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(tiff(array))
    kind = "floats (mode F)" if array.dtype.kind == "f" else "32-bit integers (mode I)"
    assert f"a.tif: an image of {kind} has no defined white level; convert it" in refusal(
        "images", tmp_path / "in", tmp_path, size=8
    )


def test_what_pillow_finds_behind_another_name_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = io.BytesIO()
    Pictures.fromarray(crops(1, 8)[0]).save(out, "ICO")
    (tmp_path / "in" / "a.png").write_bytes(out.getvalue())
    assert "a.png: the file is damaged or is not an image" in refusal("images", tmp_path / "in", tmp_path, size=8)
    with pytest.raises(SetupError, match=r"a\.png is not an image"):
        image_files.read(tmp_path / "in" / "a.png", (3, 8, 8), K=256)
    (tmp_path / "in" / "a.png").unlink()
    for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF"):
        name = f"a.{form.lower()}".replace(".tiff", ".tif")
        Pictures.fromarray(crops(1, 8)[0]).save(tmp_path / "in" / name, form)
    assert sum(made("images", tmp_path / "in", tmp_path / "all", size=8).splits.values()) == 7
