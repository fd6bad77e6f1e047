"""A small file that declares, or unpacks to, any size: one line, and no room is made for it."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.data.formats import mnist
from model.data.formats.npz import NpzImages
from model.data.shards import read_columns
from model.errors import DataError


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Fail where more than 64 MB are asked for."""
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 << 20


def npy(shape: tuple[int, ...], descr: str, data: bytes = b"") -> bytes:
    """Return a .npy file that declares a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def zipped(**members: bytes) -> bytes:
    """Return a compressed zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_npy", ".npy"), data)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npy((10**12,), "<u2"),
        npy((10**12, 10**12), "<f8"),
        npy((2,), "|O"),
        zipped(a_npy=b""),
        b"",
        b"\x93NUMPY",
        b"x" * 99,
    ],
)
def test_columns_that_declare_more_than_the_file_holds(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "columns.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a file of columns") as caught:
        read_columns(path)
    assert "\n" not in str(caught.value)


def test_columns_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "columns.npy", np.arange(3))
    assert read_columns(tmp_path / "columns.npy").tolist() == [0, 1, 2]


def test_a_gzip_of_zeros_is_no_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "LARGEST_BYTES", 8 << 20)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(24 << 20), 1))
    tracemalloc.reset_peak()
    with pytest.raises(DataError, match="has more than 8,388,608 bytes, unpacked"):
        mnist.read_idx(path, 3)


@pytest.mark.parametrize("header", ["huge head", "huge labels"])
def test_a_header_of_an_npz_declares_no_memory(tmp_path: Path, header: str) -> None:
    labels = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * (32 << 20)
    if header == "huge labels":
        labels = npy((30_000_000,), "|u1", bytes(30_000_000))
    path = tmp_path / "val_data.npz"
    path.write_bytes(zipped(data_npy=npy((1, 3072), "|u1", bytes(3072)), labels_npy=labels))
    del labels
    tracemalloc.reset_peak()
    with pytest.raises(DataError, match=r"val_data.npz:val_data.npz: 'labels' (is not an array|declares 30,000,000)"):
        list(NpzImages([("valid", path)], side=32).blocks({}))
