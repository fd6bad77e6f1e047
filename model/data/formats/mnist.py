"""Reads MNIST: the IDX files (LeCun), and the .amat files of the published binarisation (Larochelle)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.formats.stream import read_all
from model.data.manifest import Image
from model.data.source import Arrays, InMemory, check_labels
from model.errors import DataError

SIDE, VALUES = 28, 784
VALID = 10_000  # number of training images at the end for validation, as in the published binarisation
ROW = 2 * VALUES  # "0 1 ... 0\n"
LARGEST_BYTES = 1 << 30  # MNIST's largest file has 47 MB
Named = tuple[str, bytes]  # the name of a file for messages, and its content
MAGIC = {1: b"\0\0\x08\x01", 3: b"\0\0\x08\x03"}  # zero, zero, unsigned byte, number of dimensions


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed by gzip or not.

    Raises:
        DataError: the magic number is wrong, or the file is too short or too long.
    """
    return parse_idx(path.name, read_all(path, most=LARGEST_BYTES), dimensions)


def parse_idx(name: str, content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Parse the content of an IDX file of unsigned bytes; `name` is for messages.

    Raises:
        DataError: the magic number is wrong, or the content is too short or too long.
    """
    head = 4 + 4 * dimensions
    if content[:4] != MAGIC[dimensions]:
        found = content[:4].hex() or "nothing"
        expected = f"{MAGIC[dimensions].hex()} of an IDX file of {dimensions} dimensions"
        raise DataError(f"{name}: byte 0: the magic number is {found}, not {expected}")
    if len(content) < head:
        raise DataError(f"{name} is cut off: it ends at byte {len(content)} inside its header of {head} bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, 4))
    wanted = head + int(np.prod(shape, dtype=object))
    if len(content) < wanted:
        raise DataError(f"{name} is cut off: it ends at byte {len(content)}, its header gives {wanted} bytes")
    if len(content) > wanted:
        raise DataError(
            f"{name}: byte {wanted}: {len(content) - wanted} bytes follow the last value; the file is damaged"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def from_idx(files: Mapping[str, Named], *, binarise: str, seed: int, valid: int | None = None) -> InMemory:
    """Read the four IDX files of MNIST.

    Args:
        files: the files by published name without .gz.
        binarise: "static": drawn once with `seed`; "dynamic": gray, drawn by the loader; "threshold": 1 from 128 on.
        seed: the seed of the static draw.
        valid: number of training images at the end to use for validation; a sixth if not given (10,000 of 60,000).

    Raises:
        DataError: a file is damaged, or the numbers of images and labels differ.
    """
    arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images_name, labels_name = files[f"{stem}-images-idx3-ubyte"][0], files[f"{stem}-labels-idx1-ubyte"][0]
        images = parse_idx(*files[f"{stem}-images-idx3-ubyte"], 3)
        labels = parse_idx(*files[f"{stem}-labels-idx1-ubyte"], 1)
        if images.shape[1:] != (SIDE, SIDE):
            height, width = images.shape[1:]
            raise DataError(f"{images_name}: byte 8: the images are {height}x{width}, not {SIDE}x{SIDE}")
        if len(images) != len(labels):
            raise DataError(f"{labels_name}: byte 4: {len(labels)} labels for {len(images)} images")
        check_labels(labels, 9, labels_name, 8)
        arrays[split] = (_binarised(images[..., None], binarise, seed, split), labels)
    images, labels = arrays["train"]
    held = len(images) // 6 if valid is None else valid
    cut = len(images) - held
    parts = [
        Arrays("train", images[:cut], labels[:cut]),
        Arrays("valid", images[cut:], labels[cut:]),
        Arrays("test", *arrays["test"]),
    ]
    recipe = {"binarise": binarise, "valid": f"the last {held:,} training images"}
    if binarise == "static":
        recipe["seed"] = str(seed)
    # Dynamic: the shards hold gray images; the loader draws images of two levels for the network.
    image = Image(SIDE, SIDE, 1, 256 if binarise == "dynamic" else 2)
    return InMemory(image, parts, recipe)


def _binarised(gray: NDArray[np.uint8], how: str, seed: int, split: str) -> NDArray[np.uint8]:
    if how == "dynamic":
        return gray
    if how == "threshold":
        return (gray >= 128).astype(np.uint8)
    chances = np.random.default_rng([seed, split == "test"]).integers(0, 255, gray.shape, dtype=np.uint8)
    return (chances < gray).astype(np.uint8)  # P(1) = gray / 255


def from_amat(files: Mapping[str, Named]) -> InMemory:
    """Read the published binarisation: text files with rows of 1,568 bytes.

    Args:
        files: the files by split.

    Raises:
        DataError: a byte does not fit the format.
    """
    parts = [Arrays(split, parse_amat(*files[split])) for split in ("train", "valid", "test")]
    return InMemory(Image(SIDE, SIDE, 1, 2), parts, {"binarise": "published"})


def parse_amat(name: str, text: bytes) -> NDArray[np.uint8]:
    """Parse one file: images (N, 28, 28, 1) of 0 and 1; `name` is for messages.

    Raises:
        DataError: a byte does not fit the format.
    """
    content = np.frombuffer(text, np.uint8)
    whole = content[: len(content) // ROW * ROW].reshape(-1, VALUES, 2)
    values, gaps = whole[..., 0] - ord("0"), whole[..., 1]
    between = np.full(VALUES, ord(" "), np.uint8)
    between[-1] = ord("\n")
    wrong = np.flatnonzero(np.stack([values > 1, gaps != between], axis=-1))
    if len(wrong):
        byte = int(wrong[0])
        raise DataError(f"{name}: byte {byte}: {chr(content[byte])!r} does not fit rows of {VALUES} digits 0 or 1")
    if len(content) % ROW or not len(content):
        raise DataError(
            f"{name} is cut off: it ends at byte {len(content)}, which is not a multiple of {ROW} (one row)"
        )
    return values.reshape(-1, SIDE, SIDE, 1)
