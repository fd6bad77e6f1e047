"""TensorBoard's event files: the scalars in their bytes, however they are written; what is damaged or not whole yet."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from infra.instance.metrics import tensorboard as module
from infra.instance.metrics.growing import Growing
from infra.instance.metrics.tensorboard import EventFile, masked_crc, scalars
from tests.support.event_files import (
    crc32c,
    delimited,
    event,
    masked,
    scalar_record,
    simple,
    tensor,
    varint,
    version_record,
)

AT = 1.7e9


def read(file: EventFile) -> list[tuple[float | None, int | None, dict[str, float]]]:
    return [scalars(one) for one in file.records(1 << 30)]


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    for data in (b"", b"123456789", bytes(range(256)) * 3):
        assert struct.pack("<I", masked_crc(data)) == masked(data)


def test_scalars_are_read_with_step_and_time() -> None:
    assert scalars(event(AT, 7, simple("loss", 0.1), simple("acc/train", 1.0))) == (
        AT,
        7,
        {"loss": 0.1, "acc/train": 1.0},
    )


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (1, b"\x2d" + struct.pack("<f", 0.5), 0.5),  # float_val
        (1, delimited(5, struct.pack("<f", 0.5)), 0.5),  # float_val, packed
        (1, delimited(4, struct.pack("<f", 0.5)), 0.5),  # tensor_content
        (2, delimited(6, struct.pack("<d", 0.25)), 0.25),
        (2, delimited(4, struct.pack("<d", 0.25)), 0.25),
        (3, delimited(7, varint(12)), 12),
        (3, b"\x38" + varint(-3), -3),
        (9, delimited(10, varint(1 << 40)), 1 << 40),
        (9, delimited(4, struct.pack("<q", -5)), -5),
        (19, delimited(4, struct.pack("<e", 1.5)), 1.5),
        (1, delimited(2, b"") + delimited(4, struct.pack("<f", 0.5)), 0.5),  # with the shape of a scalar
    ],
)
def test_a_tensor_of_one_number_is_a_scalar(kind: int, body: bytes, value: float) -> None:
    assert scalars(event(AT, 1, tensor("x", kind, body)))[2] == {"x": value}


@pytest.mark.parametrize(
    "value",
    [
        tensor("x", 7, delimited(8, b"text")),
        tensor("x", 1, delimited(4, struct.pack("<ff", 1, 2))),
        tensor("x", 1, delimited(5, struct.pack("<ff", 1, 2))),
        tensor("x", 99, delimited(4, b"1234")),
        delimited(1, b"x") + delimited(4, b"a picture"),
        delimited(1, b"x") + b"\x15\x00",
        b"\xff" * 40,
        delimited(1, b"x")[:-1],
    ],
)
def test_what_is_no_scalar_is_passed_over(value: bytes) -> None:
    assert scalars(event(AT, 1, value))[2] == {}


def test_a_step_or_a_time_that_makes_no_sense_is_none() -> None:
    assert scalars(event(float("nan"), -4, simple("a", 1.0))) == (None, None, {"a": 1.0})


def test_a_record_that_is_not_whole_yet_is_waited_for(tmp_path: Path) -> None:
    path, whole = tmp_path / "f", scalar_record(AT, 1, loss=0.5)
    file = EventFile(Growing(str(path)))
    for size in (0, 5, 12, 20, len(whole) - 1):
        path.write_bytes(version_record(AT) + whole[:size])
        assert [found[2] for found in read(file) if found[2]] == []
    path.write_bytes(version_record(AT) + whole)
    assert read(file) == [(AT, 1, {"loss": 0.5})]
    assert file.skipped == 0


def test_a_damaged_record_is_left_out_and_a_damaged_length_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    bad = bytearray(scalar_record(AT, 2, loss=2.0))
    bad[-6] ^= 1
    head = bytearray(scalar_record(AT, 4, loss=4.0))
    head[0] ^= 1
    path.write_bytes(scalar_record(AT, 1, loss=1.0) + bytes(bad) + scalar_record(AT, 3, loss=3.0) + bytes(head))
    file = EventFile(Growing(str(path)))
    assert [step for _, step, _ in read(file)] == [1, 3]
    assert [step for _, step, _ in read(file)] == []
    with path.open("ab") as more:
        more.write(scalar_record(AT, 5, loss=5.0))
    assert [step for _, step, _ in read(file)] == []
    assert file.skipped == 2


def test_a_picture_of_megabytes_is_passed_over_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "f"
    big = b"\0" * (3 * module.LOOK_BYTES)
    length = struct.pack("<Q", len(big))
    path.write_bytes(length + masked(length) + big[: len(big) // 2])
    file = EventFile(Growing(str(path)))
    assert read(file) == []
    with path.open("ab") as more:
        more.write(big[len(big) // 2 :] + b"crc!" + scalar_record(AT, 9, loss=1.0))
    assert [step for _, step, _ in read(file)] == [9]


def test_a_length_of_all_ones_reserves_no_memory(tmp_path: Path) -> None:
    path, length = tmp_path / "f", b"\xff" * 8
    path.write_bytes(length + masked(length) + b"x" * 100)
    assert read(EventFile(Growing(str(path)))) == []


def test_a_file_that_is_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(scalar_record(AT, 1, loss=1.0) + scalar_record(AT, 2, loss=1.0))
    file = EventFile(Growing(str(path)))
    assert len(read(file)) == 2
    path.write_bytes(scalar_record(AT, 7, loss=1.0))
    assert [step for _, step, _ in read(file)] == [7]


@pytest.mark.slow
def test_what_tensorboards_own_writer_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))  # type: ignore[no-untyped-call]
    writer.add_scalar("loss", 0.3, 5)  # type: ignore[no-untyped-call]
    writer.add_scalar("new", 0.7, 6, new_style=True)  # type: ignore[no-untyped-call]
    writer.add_text("text", "words", 6)  # type: ignore[no-untyped-call]
    writer.add_hparams({"lr": 0.1}, {"best": 0.9})  # type: ignore[no-untyped-call]
    writer.close()  # type: ignore[no-untyped-call]
    (name,) = [one for one in os.listdir(tmp_path) if "tfevents" in one]
    found = read(EventFile(Growing(str(tmp_path / name))))
    assert [(step, values) for _, step, values in found if values] == [
        (5, {"loss": 0.3}),
        (6, {"new": pytest.approx(0.7)}),  # a newer writer keeps a float32
    ]
