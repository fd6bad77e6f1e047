"""A published file is known by the digest of its content, whatever it is called and however it is packed."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.__main__ import main
from model.config import REGISTRY
from model.config.data_recipe import Options
from model.config.datasets import Registered, SourceFile
from model.data import load
from model.data.manifest import Manifest
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.errors import DataError
from tests.support.data_files import (
    add,
    crops,
    png,
    write_amat,
    write_cifar,
    write_mnist,
    write_npz_zip,
    write_png_tar,
)

MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
Files = dict[str, bytes]


def digests(content: bytes, *, md5: bool = False) -> dict[str, object]:
    name = "md5" if md5 else "sha256"
    return {"bytes": len(content), "sha256": None, "md5": None, name: hashlib.new(name, content).hexdigest()}


def publish(monkeypatch: pytest.MonkeyPatch, entry: Registered, files: Mapping[str, Path], raw: Files, *,
            md5: bool = False) -> None:  # fmt: skip
    """Register such files in place of the published ones, with the digests of their content where there are some."""

    def of(file: SourceFile) -> SourceFile:
        contents = tuple(replace(one, **digests(raw[one.name], md5=md5)) for one in file.contents if one.name in raw)  # type: ignore[arg-type]
        if file.name not in files:
            return replace(file, contents=contents)
        return replace(file, contents=contents, **digests(files[file.name].read_bytes()))  # type: ignore[arg-type]

    changed = replace(entry, files=tuple(map(of, entry.files)), also=tuple(map(of, entry.also)))
    registry = {**REGISTRY, entry.name: changed}
    monkeypatch.setattr("model.config.data_recipe.REGISTRY", registry)


def made(name: str, source: Path, out: Path, **options: object) -> Manifest:
    result, folder, _ = prepare(name, Options(source=str(source), out=out, **options))  # type: ignore[arg-type]
    assert verify(folder) == result
    return result


def put(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Files, mode: str = "w:gz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            add(tar, name, content)
    return path


def repacked(content: bytes) -> bytes:
    """A gzip of another header and another level."""
    out = io.BytesIO()
    with gzip.GzipFile("a name of its own", "wb", 9, out, mtime=7) as file:
        file.write(content)
    return out.getvalue()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Files]:
    """A small MNIST in the place of the real one: its folder as published, and the unpacked files."""
    folder = write_mnist(tmp_path / "published")
    raw = {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in MNIST}
    entry = REGISTRY["mnist-threshold"]
    publish(monkeypatch, entry, {f"{name}.gz": folder / f"{name}.gz" for name in MNIST}, raw)
    return folder, raw


def seven(name: str) -> str:
    """The name that 7-Zip and Kaggle give: the one in the gzip header."""
    return name.replace("-idx", ".idx")


def swapped(name: str) -> str:
    """The name of the same file of the other split."""
    return name.replace("t10k", "train") if "t10k" in name else name.replace("train", "t10k")


PACKINGS: dict[str, Callable[[Path, Files], Path]] = {
    "unpacked": lambda at, raw: put(at, raw),
    "torchvision": lambda at, raw: put(at, {f"MNIST/raw/{name}": content for name, content in raw.items()}),
    "torchvision, both": lambda at, raw: put(
        at,
        {f"MNIST/raw/{name}": content for name, content in raw.items()}
        | {f"MNIST/raw/{name}.gz": repacked(content) for name, content in raw.items()},
    ),
    "7-Zip": lambda at, raw: put(at, {seven(name): content for name, content in raw.items()}),
    "another gzip header": lambda at, raw: put(at, {f"{name}.gz": repacked(raw[name]) for name in raw}),
    "7-Zip, packed": lambda at, raw: put(at, {f"{seven(name)}.gz": repacked(raw[name]) for name in raw}),
    "second copies": lambda at, raw: put(at, {f"{name} (1).gz": repacked(raw[name]) for name in raw}),
    "names of their own": lambda at, raw: put(at, {f"{n}.bin": content for n, content in enumerate(raw.values())}),
    "Kaggle's zip": lambda at, raw: zipped(
        at / "archive.zip",
        {seven(name): content for name, content in raw.items()}
        | {f"{name}/{name}": content for name, content in raw.items()},
    ),
    "a folder with the zip": lambda at, raw: zipped(at / "archive.zip", raw).parent,
    "a zip of gzips": lambda at, raw: zipped(at / "m.zip", {f"x/{name}.gz": repacked(raw[name]) for name in raw}),
    "a zip of macOS": lambda at, raw: zipped(
        at / "m.zip", {**raw, **{f"__MACOSX/._{name}": b"\x00\x05\x16\x07" for name in raw}}
    ),
    "a tar": lambda at, raw: tarred(at / "m.tar", {f"./raw/{name}": content for name, content in raw.items()}, "w"),
    "a tar.gz": lambda at, raw: tarred(at / "m.tgz", {f"{name}.gz": repacked(raw[name]) for name in raw}),
    "a tar.gz in a zip": lambda at, raw: zipped(
        at / "m.zip", {"mnist.tar.gz": tarred(at / "x.tar.gz", raw).read_bytes()}
    ),
    "swapped names": lambda at, raw: put(at, {swapped(name): content for name, content in raw.items()}),
}  # fmt: skip


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_mnist_is_known_by_its_content(packing: str, published: tuple[Path, Files], tmp_path: Path) -> None:
    folder, raw = published
    wanted = made("mnist-threshold", folder, tmp_path / "wanted")
    source = PACKINGS[packing](tmp_path / "in", raw)
    got = made("mnist-threshold", source, tmp_path / "out")
    assert got.published
    assert (got.id, got.shards, got.sources) == (wanted.id, wanted.shards, wanted.sources)
    assert got.left_out == ({"__MACOSX": 4} if packing == "a zip of macOS" else {})
    assert not prepare("mnist-threshold", Options(source=str(source), out=tmp_path / "wanted"))[2]


@pytest.mark.parametrize("name", ["mnist-threshold", "cifar10"])
def test_the_published_archive_is_known_even_where_the_digests_of_its_content_are_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cifar10":
        source = write_cifar(tmp_path / "in" / "cifar-10-binary.tar.gz", 4)
        publish(monkeypatch, REGISTRY[name], {source.name: source}, {})
    else:
        source = write_mnist(tmp_path / "in")
        publish(monkeypatch, REGISTRY[name], {path.name: path for path in source.iterdir()}, {})
    assert made(name, source, tmp_path / "out").published


def test_swapped_names_are_said(
    published: tuple[Path, Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = PACKINGS["swapped names"](tmp_path / "in", published[1])
    assert (source / "t10k-images-idx3-ubyte").read_bytes() == published[1]["train-images-idx3-ubyte"]
    made("mnist-threshold", source, tmp_path / "out")
    said = capsys.readouterr().err
    assert "t10k-images-idx3-ubyte has the content of train-images-idx3-ubyte and is used as that" in said


def test_fashion_mnist_beside_it_is_not_taken_for_it(published: tuple[Path, Files], tmp_path: Path) -> None:
    _, raw = published
    other = write_mnist(tmp_path / "other", 48, 12, packed=False)
    for name, content in raw.items():
        put(tmp_path / "in", {f"MNIST/raw/{name}": content})
        put(tmp_path / "in", {f"FashionMNIST/raw/{name}": (other / name).read_bytes()})
    assert made("mnist-threshold", tmp_path / "in", tmp_path / "out").splits["train"] == 50
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte is not the published file|has \d+,\d+ bytes, the pub"
    ):
        made("mnist-threshold", tmp_path / "in" / "FashionMNIST", tmp_path / "no")
    third = write_mnist(tmp_path / "third", 36, 12, packed=False)
    shutil.rmtree(tmp_path / "in" / "MNIST")
    shutil.copytree(third, tmp_path / "in" / "KMNIST")
    with pytest.raises(DataError, match=r"could be KMNIST/\S+ and FashionMNIST/raw/\S+, which differ"):
        made("mnist-threshold", tmp_path / "in", tmp_path / "no", unverified=True)


def test_one_changed_byte_is_another_file(published: tuple[Path, Files], tmp_path: Path) -> None:
    _, raw = published
    content = bytearray(raw["t10k-images-idx3-ubyte"])
    content[100] ^= 1
    changed = {**raw, "t10k-images-idx3-ubyte": bytes(content)}
    for source in (put(tmp_path / "in", changed), zipped(tmp_path / "m.zip", changed)):
        says = r"t10k-images-idx3-ubyte is not the published file: its sha256 is \w{64}, not \w{64}"
        with pytest.raises(DataError, match=says):
            made("mnist-threshold", source, tmp_path / "no")
        result = made("mnist-threshold", source, tmp_path / f"out-{source.name}", unverified=True)
        assert not result.published
    assert len(result.sources) == 1  # the zip
    assert result.sources[0]["name"] == "m.zip"


def test_a_file_that_is_missing_or_damaged_is_named(published: tuple[Path, Files], tmp_path: Path) -> None:
    _, raw = published
    some = {name: content for name, content in raw.items() if name != "t10k-labels-idx1-ubyte"}
    with pytest.raises(DataError, match=r"in has no t10k-labels-idx1-ubyte; pixel-orch data info"):
        made("mnist-threshold", put(tmp_path / "in", some), tmp_path / "no")
    cut = repacked(raw["t10k-labels-idx1-ubyte"])[:-9]
    put(tmp_path / "in", {"t10k-labels-idx1-ubyte.gz": cut})
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is cut off"):
        made("mnist-threshold", tmp_path / "in", tmp_path / "no")
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    with pytest.raises(DataError, match=r"a.7z is a 7z archive, which is not read; unpack it"):
        made("mnist-threshold", tmp_path / "a.7z", tmp_path / "no")
    with pytest.raises(DataError, match=r"mnist-threshold needs 4 files"):
        made("mnist-threshold", zipped(tmp_path / "empty.zip", {"readme": b"x"}), tmp_path / "no")


def test_the_digests_of_the_content_belong_to_the_published_files() -> None:
    """All four are those of the published gzips: three were unpacked and hashed, the fourth is widely published."""
    for name in ("mnist-static-own", "mnist-dynamic", "mnist-threshold"):
        for file in REGISTRY[name].files:
            (content,) = file.contents
            assert f"{content.name}.gz" == file.name
            assert len(content.sha256 or "") == 64
            images = 60_000 if "train" in file.name else 10_000
            assert content.bytes == (16 + images * 784 if "images" in file.name else 8 + images)
    for file in (*REGISTRY["cifar10"].files, *REGISTRY["cifar10"].also):
        assert len({content.md5 for content in file.contents}) == 6
        assert all(len(content.md5 or "") == 32 for content in file.contents)
    assert [len(file.contents) for file in REGISTRY["imagenet-box-32"].files] == [10, 1]


def batches(path: Path) -> Files:
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            opened = tar.extractfile(member)
            assert opened is not None
            found[member.name.rpartition("/")[2]] = opened.read()
    return found


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    "packing", ["folder", "unpacked", "tar.gz", "zip", "the tar.gz in a zip", "renamed", "swapped"]
)
def test_cifar_10_is_known_by_its_batches(
    packing: str, pickled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cifar-10-python.tar.gz" if pickled else "cifar-10-binary.tar.gz"
    whole = write_cifar(tmp_path / "published" / name, 4, pickled=pickled)
    raw = batches(whole)
    publish(monkeypatch, REGISTRY["cifar10"], {name: whole}, raw, md5=True)
    wanted = made("cifar10", whole, tmp_path / "wanted")
    below = {f"cifar-10-batches-{'py' if pickled else 'bin'}/{key}": content for key, content in raw.items()}
    source = {
        "folder": lambda: put(tmp_path / "in", raw),
        "unpacked": lambda: put(tmp_path / "in", below),
        "tar.gz": lambda: tarred(tmp_path / "c.tar.gz", below),
        "zip": lambda: zipped(tmp_path / "archive.zip", {**below, "__MACOSX/._data_batch_1": b"x"}),
        "the tar.gz in a zip": lambda: zipped(tmp_path / "archive.zip", {name: whole.read_bytes()}),
        "renamed": lambda: Path(shutil.copy(whole, tmp_path / "cifar-10 (1).tar.gz")),
        "swapped": lambda: put(tmp_path / "in", {f"{n}.x": content for n, content in enumerate(raw.values())}),
    }[packing]()
    if packing == "swapped":
        for (key, content), other in zip(sorted(raw.items()), sorted(raw, reverse=True), strict=True):
            assert key in raw
            put(tmp_path / "in", {other: content})
    got = made("cifar10", source, tmp_path / "out")
    assert got.published
    assert (got.id, got.shards) == (wanted.id, wanted.shards)


def test_the_published_binarisation_is_known_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_amat(tmp_path / "published")
    files = {path.name: path for path in folder.iterdir()}
    publish(monkeypatch, REGISTRY["mnist-static"], files, {})
    wanted = made("mnist-static", folder, tmp_path / "wanted")
    raw = {name: path.read_bytes() for name, path in files.items()}
    sources = (
        put(tmp_path / "gz", {f"{name}.gz": repacked(content) for name, content in raw.items()}),
        zipped(tmp_path / "a.zip", raw),
        put(tmp_path / "own", {f"{number}.txt": content for number, content in enumerate(raw.values())}),
    )
    for source in sources:
        got = made("mnist-static", source, tmp_path / f"out-{source.name}")
        assert (got.published, got.id) == (True, wanted.id)


def test_the_tars_of_imagenet_are_known_renamed_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "published"
    for split, number in (("train", 9), ("valid", 4)):
        write_png_tar(folder / f"{split}_32x32.tar", crops(number, 32, seed=number), split)
    files = {path.name: path for path in folder.iterdir()}
    publish(monkeypatch, REGISTRY["imagenet-small-32"], files, {})
    wanted = made("imagenet-small-32", folder, tmp_path / "wanted")
    train, valid = (files[f"{split}_32x32.tar"].read_bytes() for split in ("train", "valid"))
    sources = (
        put(tmp_path / "copies", {"train_32x32 (1).tar": train, "x/valid.tar": valid}),
        put(tmp_path / "packed", {"train_32x32.tar.gz": repacked(train), "valid_32x32.tgz": repacked(valid)}),
        put(tmp_path / "swapped", {"valid_32x32.tar": train, "train_32x32.tar": valid}),
    )
    for source in sources:
        got = made("imagenet-small-32", source, tmp_path / f"out-{source.name}")
        assert (got.published, got.id, got.shards) == (True, wanted.id, wanted.shards)
    unpacked = {f"{split}_32x32/{n}.png": png(image) for split, seed, count in (("train", 9, 9), ("valid", 4, 4))
                for n, image in enumerate(crops(count, 32, seed=seed))}  # fmt: skip
    source = put(tmp_path / "unpacked", {**unpacked, "train_32x32/._1.png": b"x"})
    with pytest.raises(DataError, match=r"train_32x32 is a folder, whose files have no published checksum; pass"):
        made("imagenet-small-32", source, tmp_path / "no")
    got = made("imagenet-small-32", source, tmp_path / "loose", unverified=True)
    assert (got.published, got.splits, got.left_out) == (False, {"train": 9, "valid": 4}, {"._*": 1})


@pytest.mark.parametrize("name", ["imagenet-box-32", "imagenet-box-64"])
def test_the_npz_of_imagenet_are_known_where_their_digests_are_published(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, entry = int(name[-2:]), REGISTRY[name]
    count = 10 if side == 32 else 4
    packed: dict[str, dict[str, np.ndarray]] = {file.name: {} for file in entry.files}
    trains = [file.name for file in entry.files if file.split == "train"]
    for number in range(1, count + 1):
        packed[trains[(number - 1) * len(trains) // count]][f"train_data_batch_{number}.npz"] = crops(2, side, number)
    packed[entry.files[-1].name]["val_data.npz"] = crops(3, side, 99)
    folder = tmp_path / "published"
    files = {key: write_npz_zip(folder / key, content) for key, content in packed.items()}
    raw: Files = {}
    for path in files.values():
        with zipfile.ZipFile(path) as archive:
            raw |= {key: archive.read(key) for key in archive.namelist()}
    publish(monkeypatch, entry, files, raw, md5=True)
    wanted = made(name, folder, tmp_path / "wanted")
    assert wanted.published
    sources = (
        put(tmp_path / "loose", {f"Imagenet_{key[:5]}_npz/{key}": content for key, content in raw.items()}),
        zipped(tmp_path / "archive.zip", {f"x/{key}": content for key, content in raw.items()}),
        put(tmp_path / "renamed", {f"{n}.zip": path.read_bytes() for n, path in enumerate(files.values())}),
    )
    for source in sources:
        known = side == 32 or source.name == "renamed"
        if not known:
            with pytest.raises(DataError, match=r"its .npz files are not known .*, which have no published checksum"):
                made(name, source, tmp_path / "no")
        got = made(name, source, tmp_path / f"out-{source.name}", unverified=not known)
        assert (got.published, got.shards) == (known, wanted.shards)
        assert not known or got.id == wanted.id


def test_a_prepared_folder_needs_no_dot_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXEL_ORCH_DATA", str(tmp_path / "data"))
    write_png_tar(tmp_path / "mine.tar", crops(30, 8), "mine")
    assert main(["data", "prepare", "images", "--source", "mine.tar", "--size", "8", "--out", "mine"]) == 0
    for words in (["preview", "mine", "--out", "a.png"], ["verify", "mine"], ["info", "mine"]):
        assert main(["data", *words]) == 0
    assert load("mine").facts.train == 27
    (tmp_path / "empty").mkdir()
    (tmp_path / "cifar10").mkdir()  # a registered name comes first
    capsys.readouterr()
    assert main(["data", "preview", "empty", "--out", "b.png"]) == 2
    assert "empty is not a prepared data set (no manifest.json)" in capsys.readouterr().err
    assert main(["data", "preview", "cifar10", "--out", "b.png"]) == 2
    assert "run: pixel-orch data prepare cifar10" in capsys.readouterr().err
    assert main(["data", "preview", "nosuch", "--out", "b.png"]) == 2
    assert "no data set 'nosuch'" in capsys.readouterr().err
