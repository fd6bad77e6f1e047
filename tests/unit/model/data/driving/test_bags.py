"""Bags: our reader agrees with the rosbags library, telemetry with the truth, and damage costs only what is damaged."""

from __future__ import annotations

import bz2
import hashlib
import io
import itertools
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
from PIL import Image

from model.config.data_flags import CAMERAS
from model.config.data_recipe import Options
from model.data import load
from model.data.driving import frames, telemetry
from model.data.driving.bag import Bag, Connection, read_index
from model.data.driving.extract import stretches
from model.data.driving.frames import Recipe
from model.data.driving.messages import Layout
from model.data.driving.part import Part
from model.data.formats.stream import FileStream
from model.data.manifest import Manifest
from model.data.prepare.prepare import prepare
from model.data.prepare.verify import verify
from model.errors import DataError
from tests.support.data_files import (
    BEGAN_NS,
    Drive,
    speed_at,
    steering_at,
    write_bag,
    write_bag_archive,
    write_dump,
)

SIZE = 16
SHORT = Drive(seconds=2)
PAGE = Path(__file__).parents[5] / "docs" / "data-damage.md"


def made(source: Path, out: Path, **options: object) -> Manifest:
    result, folder, done = prepare("udacity", Options(source=str(source), out=out, size=SIZE, **options))  # type: ignore[arg-type]
    assert done
    assert verify(folder) == result
    assert not (out / ".parts").exists()
    return result


def rows(out: Path) -> np.ndarray:
    data = load(str(out))
    found = [np.load(path) for path in sorted(data.folder.glob("*.columns.npy"))]  # type: ignore[union-attr]
    return np.sort(np.concatenate(found), order="stamp_ns")


def count(result: Manifest) -> int:
    return sum(result.splits.values())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "drive.bag", SHORT)


@pytest.fixture(scope="module")
def whole(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    made(bag, out)
    return out


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
@pytest.mark.parametrize("jpeg", [True, False])
def test_every_payload_is_the_one_that_the_rosbags_library_reads(compression: str, jpeg: bool, tmp_path: Path) -> None:
    from rosbags.rosbag1 import Reader

    path = write_bag(tmp_path / "a.bag", Drive(seconds=1, jpeg=jpeg, cameras=CAMERAS), compression=compression)
    theirs, ours = hashlib.sha256(), hashlib.sha256()
    with Reader(path) as reader:
        number = 0
        for connection, time_ns, data in reader.messages():
            theirs.update(f"{connection.topic} {connection.msgtype.replace('/msg/', '/')} {time_ns} ".encode() + data)
            number += 1
    stream = FileStream(path)
    mine = Bag(stream, note=lambda kind, line: pytest.fail(line))
    mine.begin()
    for chunk in mine.chunks():
        for message in mine.messages(chunk, lambda connection: True):
            words = f"{message.connection.topic} {message.connection.type} {message.time_ns} ".encode()
            ours.update(words + message.data)
            number -= 1
    assert number == 0
    assert ours.hexdigest() == theirs.hexdigest()


def test_a_definition_is_read_by_its_names_whatever_stands_before_them() -> None:
    text = (
        "# a comment\nuint8 NONE=0\nHeader header\nstring[] names\nfloat64[2] pair\nOther[] others # two\nbool on\n"
        "duration wait\nfloat32 speed\n" + "=" * 80 + "\nMSG: pkg/Other\nint16 a\nuint8[] raw\n" + "=" * 80 + "\n"
        "MSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
    )
    data = struct.pack("<III", 7, 5, 6) + struct.pack("<I3s", 3, b"cam")
    data += struct.pack("<II2sI1s", 2, 2, b"ab", 1, b"c") + struct.pack("<2d", 1.5, -2.5)
    data += struct.pack("<IhI2s", 2, -3, 2, b"xy") + struct.pack("<hI", 4, 0) + struct.pack("<?iif", True, -1, 5, 9.5)
    message = Layout("pkg/Thing", text).read(memoryview(data))
    assert message["header"] == {"seq": 7, "stamp": 5 * 10**9 + 6, "frame_id": "cam"}
    assert (message["names"], message["pair"], message["on"]) == (["ab", "c"], [1.5, -2.5], True)
    assert [(other["a"], bytes(other["raw"])) for other in message["others"]] == [(-3, b"xy"), (4, b"")]
    assert (message["wait"], message["speed"]) == (-(10**9) + 5, 9.5)
    for cut in range(len(data)):
        with pytest.raises(DataError, match=r"the pkg/Thing of \d+ bytes is damaged"):
            Layout("pkg/Thing", text).read(memoryview(data[:cut]))
    for wrong in ("Missing field\n", "float32 a b c\n", "pkg/Thing me\n", "Thing me\n"):
        with pytest.raises(DataError, match="definition of pkg/Thing"):
            Layout("pkg/Thing", wrong)
    with pytest.raises(DataError, match="is damaged"):
        Layout("pkg/Thing", "uint8[] x\n").read(memoryview(b"\xff\xff\xff\xff"))


def deep(count: int) -> str:
    """A definition of so many types, each within the one before."""
    types = [f"MSG: pkg/T{number}\nT{number + 1} x\n" for number in range(count)]
    return ("=" * 80 + "\n").join(["T0 x\n", *types, f"MSG: pkg/T{count}\nint8 x\n"])


def wide(count: int) -> str:
    """A definition of so many types, each twice within the one before."""
    types = [f"MSG: pkg/T{number}\nT{number + 1} x\nT{number + 1} y\n" for number in range(count)]
    return ("=" * 80 + "\n").join(["T0 x\n", *types, f"MSG: pkg/T{count}\nint8 x\n"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (deep(2000), "nests more than 32 types"),
        (wide(28), "has more than 10,000 fields"),
        (f"uint8[{'9' * 5000}] x\n", "has an invalid line 'uint8"),
    ],
)
def test_a_definition_that_means_harm_is_one_line(text: str, says: str) -> None:
    with pytest.raises(DataError, match=f"the bag's definition of pkg/Thing {says}"):
        Layout("pkg/Thing", text)
    assert Layout("pkg/Thing", deep(20)).read(memoryview(b"\x07"))["x"]["x"]


@pytest.mark.parametrize("jpeg", [True, False])
@pytest.mark.parametrize("value", [None, {"stamp": "text"}, 2.5])
def test_a_bag_whose_definition_lacks_a_field_is_said(
    jpeg: bool, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bag(tmp_path / "a.bag", Drive(seconds=0.2, jpeg=jpeg, topics=("camera",)))
    names = ("data", "header") if jpeg else ("height", "width", "step", "encoding", "data", "header")
    read = Layout.read
    for number, name in enumerate(names):

        def other(self: Layout, data: memoryview, name: str = name) -> dict[str, Any]:
            fields = read(self, data)
            del fields[name]
            return {**fields, name: value} if value is not None else fields

        monkeypatch.setattr(Layout, "read", other)
        says = rf"a.bag: byte \d+: \S+: the bag's definition has no field {name}\S* of type \w+; left out"
        with pytest.raises(DataError, match=f"no frames of center in .*{says}"):
            made(path, tmp_path / str(number))


def test_frames_are_what_the_camera_saw(whole: Path) -> None:
    data = load(str(whole))
    first = data.split("train")[0].transpose(1, 2, 0).astype(float)
    seen = SHORT.frame(0.0, "center").astype(float)[:, 12:84]  # 96x72: the square in the middle
    mean = seen.reshape(SIZE, 72 // SIZE if 72 % SIZE == 0 else 1, -1) if 72 % SIZE == 0 else None
    assert mean is None
    small = Image.fromarray(seen.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BOX)
    assert np.abs(first - np.asarray(small)).mean() < 4  # JPEG, and half of its size


def test_raw_frames_keep_their_colours(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "raw.bag", Drive(seconds=1, jpeg=False))
    made(path, tmp_path / "out", crop="whole")
    seen = Image.fromarray(Drive().frame(0.0, "center")).resize((SIZE, SIZE), Image.Resampling.BOX)
    assert np.array_equal(load(str(tmp_path / "out")).split("train")[0].transpose(1, 2, 0), np.asarray(seen))


@pytest.mark.parametrize("encoding", list(frames.RAW))
def test_each_raw_encoding_and_its_padding(encoding: str) -> None:
    raw, mode, depth = frames.RAW[encoding]
    rgb = SHORT.frame(0.0, "center")[:32, :32]
    source = {"BGR": rgb[..., ::-1], "RGB": rgb, "L": rgb[..., :1]}.get(raw)
    if source is None:
        flipped = rgb[..., ::-1] if raw == "BGRX" else rgb
        source = np.concatenate([flipped, np.full((32, 32, 1), 255, np.uint8)], axis=2)
    padded = np.concatenate([source.reshape(32, -1), np.zeros((32, 5), np.uint8)], axis=1)
    message = {
        "height": 32,
        "width": 32,
        "step": 32 * depth + 5,
        "encoding": encoding,
        "data": memoryview(padded.reshape(-1)),
    }
    made_ = frames.from_raw(message, Recipe(32))
    assert np.array_equal(made_, rgb if mode == "RGB" else rgb[..., :1].repeat(3, axis=2))
    for change in ({"data": memoryview(padded.reshape(-1)[:-40])}, {"step": 5}, {"height": 0}, {"encoding": "bayer_x"}):
        with pytest.raises(DataError, match=r"an image of|the encoding"):
            frames.from_raw({**message, **change}, Recipe(32))


def test_every_flipped_bit_of_a_jpegs_data_that_is_seen_is_an_error(tmp_path: Path) -> None:
    import simplejpeg

    content = simplejpeg.encode_jpeg(SHORT.frame(0.0, "center"), quality=80)
    assert frames.from_compressed(memoryview(content), Recipe(SIZE)).shape == (SIZE, SIZE, 3)
    for damaged in (content[:-300], content[: len(content) // 2], content[:2], b"", b"\xff\xd8" + b"x" * 50):
        with pytest.raises(DataError, match="JPEG"):
            frames.from_compressed(memoryview(damaged), Recipe(SIZE))
    middle = len(content) // 2
    with pytest.raises(DataError, match="the JPEG is damaged"):
        frames.from_compressed(memoryview(content[:middle] + bytes(400) + content[middle + 400 :]), Recipe(SIZE))


def test_a_compressed_frame_of_mono16_keeps_its_upper_eight_bits() -> None:
    gray = np.linspace(0, 65535, SIZE * SIZE).round().astype(np.uint16).reshape(SIZE, SIZE)
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "PNG")
    got = frames.from_compressed(memoryview(out.getvalue()), Recipe(SIZE))
    assert np.array_equal(got, (gray >> 8)[..., None].repeat(3, axis=2))


def test_telemetry_is_the_truth_at_the_stamps_of_the_frames(whole: Path) -> None:
    got = rows(whole)
    t = (got["stamp_ns"] - BEGAN_NS) / 1e9
    inside = t < 1.9
    assert np.abs(got["steering_angle"] - [steering_at(x) for x in t])[inside].max() < 1e-4
    assert np.abs(got["speed"] - [speed_at(x) for x in t])[inside].max() < 0.04  # a corner at 0.5 s
    assert np.abs(got["brake"] - (0.15 + 0.01 * t))[inside].max() < 1e-6
    assert np.abs(got["throttle"] - (0.2 + 0.01 * t))[inside].max() < 1e-6
    assert np.array_equal(got["gear"], np.where(t >= 0.5, 4, 1))
    known = t <= 1.0  # two fixes, a second apart: beyond the second there is none to go between
    assert np.abs(got["latitude"] - (37.4 + 1e-4 * t))[known].max() < 1e-9
    assert np.abs(got["longitude"] + 122.1 + 1e-4 * t)[known].max() < 1e-9
    assert np.isnan(got["latitude"][~known]).all()
    assert got["steering_gap_ms"].max() <= 20.001


def test_where_the_car_said_nothing_there_is_no_number_and_never_a_zero(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "hole.bag", Drive(seconds=3, hole_s=(1.0, 2.0)))
    made(path, tmp_path / "out", max_gap_ms=100.0)
    got = rows(tmp_path / "out")
    t = (got["stamp_ns"] - BEGAN_NS) / 1e9
    hole = (t > 0.981) & (t < 1.99)
    assert np.isnan(got["steering_angle"][hole]).all()
    assert np.isnan(got["speed"][hole]).all()
    assert not np.isnan(got["steering_angle"][~hole & (t < 2.9)]).any()
    assert not np.isnan(got["brake"][t < 2.9]).any()
    assert got["steering_gap_ms"][hole].min() > 500
    silent = write_bag(tmp_path / "silent.bag", Drive(seconds=1, topics=("camera",)))
    assert made(silent, tmp_path / "silent").columns[2].missing == 10
    assert all(np.isnan(rows(tmp_path / "silent")[wanted.name]).all() for wanted in telemetry.WANTED)


def test_slow_frames_can_be_left_out(bag: Path, tmp_path: Path) -> None:
    result = made(bag, tmp_path / "out", min_speed=1.0)
    assert rows(tmp_path / "out")["speed"].min() >= 1.0
    assert any(note.endswith("frames below 1 m/s were left out") for note in result.notes)


def test_cameras_and_stride(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "three.bag", Drive(seconds=1, cameras=CAMERAS))
    assert count(made(path, tmp_path / "all", cameras="all")) == 30
    assert set(rows(tmp_path / "all")["camera"]) == {0, 1, 2}
    assert count(made(path, tmp_path / "left", cameras="left", stride=3)) == 4
    assert (np.diff(rows(tmp_path / "left")["stamp_ns"]) == 300_000_000).all()
    for wrong in ("front", "left,left", ""):
        with pytest.raises(DataError, match=r"--cameras .*: give all, or some of left,center,right"):
            made(path, tmp_path / "no", cameras=wrong)
    with pytest.raises(DataError, match="no frames of left in"):
        made(write_bag(tmp_path / "one.bag", Drive(seconds=1)), tmp_path / "no", cameras="left")


@pytest.mark.slow
def test_one_drive_is_the_same_however_it_is_packed(bag: Path, whole: Path, tmp_path: Path) -> None:
    wanted = contents(whole)
    made(write_bag_archive(tmp_path / "drive.bag.tar.gz", [bag]), tmp_path / "archive")
    assert contents(tmp_path / "archive") == wanted
    for compression in ("lz4", "bz2"):
        made(write_bag(tmp_path / f"{compression}.bag", SHORT, compression=compression), tmp_path / compression)
        assert contents(tmp_path / compression) == wanted
    parts = tmp_path / "set"  # by topics and by time, as Udacity's own second packaging
    halves = [Drive(seconds=1), Drive(seconds=1, start_s=1.0)]
    for number, half in enumerate(halves):
        for topic in ("camera", "vehicle"):
            drive = Drive(seconds=1, start_s=half.start_s, topics=(topic,))
            write_bag(parts / f"{topic}_{number}.bag", drive)
    made(parts, tmp_path / "of-set")
    assert contents(tmp_path / "of-set") == wanted
    made(bag, tmp_path / "stretches", stretch_bytes=30_000, jobs=2)
    assert contents(tmp_path / "stretches") == wanted
    (tmp_path / "twice").mkdir()
    for name in ("a.bag", "b.bag"):
        (tmp_path / "twice" / name).write_bytes(bag.read_bytes())
    notes = made(tmp_path / "twice", tmp_path / "of-twice").notes
    assert notes == ["20 frames had the camera and stamp of another frame; left out"]
    assert contents(tmp_path / "of-twice") == wanted


def test_stretches_cover_a_bag_and_know_how_many_frames_came_before(bag: Path) -> None:
    found = stretches(bag, Path("x"), stretch_bytes=30_000)
    assert len(found) > 2
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
    assert (found[0].start, found[-1].end) == (0, None)
    topic = "/center_camera/image_color/compressed"
    assert found[-1].seen[topic] > found[1].seen[topic] > 0
    assert sum((one.frames or {})[topic] for one in found) == 20
    index = read_index(bag)
    assert index is not None
    assert {one.topic for one in index.connections.values()} >= {"/vehicle/gps/fix", "/vehicle/steering_report"}


def test_the_folder_of_rwightmans_reader_gives_the_same_frames(whole: Path, tmp_path: Path) -> None:
    made(write_dump(tmp_path / "dump", SHORT), tmp_path / "out")
    theirs, ours = rows(whole), rows(tmp_path / "out")
    assert np.array_equal(load(str(tmp_path / "out")).split("train"), load(str(whole)).split("train"))
    for name in theirs.dtype.names or ():
        assert np.allclose(theirs[name], ours[name], equal_nan=True), name


def test_a_row_of_a_table_that_is_no_row_is_left_out_and_said(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", Drive(seconds=1))
    made(dump, tmp_path / "whole")
    last = load(str(tmp_path / "whole")).split("train")[-1]
    lines = (dump / "camera.csv").read_text().splitlines()
    lines[3] = lines[3].replace("center/", "../center/")
    next((dump / "center").glob("*600000000.jpg")).write_bytes(b"\xff\xd8 no JPEG")
    (dump / "camera.csv").write_text("\n".join(lines) + "\n")
    lines[6] = f"{2**70}," + lines[6].partition(",")[2]
    (dump / "camera.csv").write_text("\n".join(lines) + "\n")
    (dump / "brake.csv").write_text(f"timestamp,brake_input\nx,y\n{2**70},0.5\n-1,0.5\n")
    result = made(dump, tmp_path / "out")
    assert count(result) == 7
    assert np.array_equal(load(str(tmp_path / "out")).split("train")[-1], last)
    text = "\n".join(result.notes)
    assert "camera.csv: line 4: the file name '../center/" in text
    assert "the JPEG is damaged" in text
    assert "brake.csv: line 2: a field is not a number" in text
    assert "camera.csv: line 7: the stamp 1180591620717411303424 ns is out of range; left out" in text
    assert "brake.csv: line 3: the stamp 1180591620717411303424 ns" in text
    assert "brake.csv: line 4: the stamp -1 ns" in text


DAY_NS = 24 * 3600 * 10**9


def test_the_split_by_time_of_an_ordinary_drive_is_what_it_was() -> None:
    for minutes, hz in ((0.03, 20), (7, 5), (70, 3), (8 * 24 * 60, 0.01)):
        stamps = BEGAN_NS + (np.arange(max(2, minutes * 60 * hz)) * 1e9 / hz).astype(np.int64)
        length = int(stamps[-1] - stamps[0]) + 1
        parts = 20 * max(1, round(length / 1.2e12))
        place = np.array([(int(stamp) - BEGAN_NS) * parts // length % 20 for stamp in stamps])
        splits, strays = telemetry.splits_of(stamps)
        assert np.array_equal(splits, np.where(place == 9, 1, np.where(place == 19, 2, 0)))
        assert strays == 0


def test_a_stamp_of_a_clock_that_was_not_set_does_not_ruin_the_split() -> None:
    drive = BEGAN_NS + np.arange(20 * 300) * 50_000_000  # 5 minutes
    alone, _ = telemetry.splits_of(drive)
    assert np.bincount(alone).tolist() == [5400, 300, 300]
    for few in ([5 * 10**9], [5 * 10**9, 5 * 10**9 + 50_000_000]):
        splits, strays = telemetry.splits_of(np.array([*few, *drive]))
        assert strays == len(few)
        assert splits[: len(few)].max() == 0
        assert np.array_equal(splits[len(few) :], alone)
    two = np.concatenate([drive - 30 * DAY_NS, drive])  # two drives, a month apart: each for itself
    assert np.array_equal(telemetry.splits_of(two)[0], np.concatenate([alone, alone]))
    long = BEGAN_NS + np.arange(8000) * (7 * 60 * 10**9)  # forty days without a gap: more than an int64 multiplies
    splits, strays = telemetry.splits_of(long)
    assert strays == 0
    assert (splits[long < long[0] + 540 * 10**9] == 0).all()
    assert 0.02 < (splits == 1).mean() < 0.08


def test_a_frame_with_a_stamp_far_off_trains_and_is_said(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", Drive(seconds=3))
    made(dump, tmp_path / "whole")
    lines = (dump / "camera.csv").read_text().splitlines()
    (dump / "camera.csv").write_text("\n".join([*lines, "5000000000," + lines[1].partition(",")[2]]) + "\n")
    result = made(dump, tmp_path / "out")
    assert "frames with a stamp more than nine days from all others: 1; in the training split" in result.notes
    wanted, got = load(str(tmp_path / "whole")), load(str(tmp_path / "out"))
    assert np.array_equal(got.split("train")[1:], wanted.split("train"))
    for split in ("valid", "test"):
        assert np.array_equal(got.split(split), wanted.split(split))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e39", "1e308"])
def test_a_number_that_is_none_becomes_nan_and_costs_nothing_else(value: str, tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", Drive(seconds=1, fps=7))  # the second frame lies between two samples
    for name, line, column in (("steering", 8, 1), ("gps", 1, 3)):
        lines = (dump / f"{name}.csv").read_text().splitlines()
        words = lines[line].split(",")
        words[column] = value
        (dump / f"{name}.csv").write_text("\n".join([*lines[:line], ",".join(words), *lines[line + 1 :]]) + "\n")
    made(dump, tmp_path / "out")
    got = rows(tmp_path / "out")
    assert np.isnan(got["steering_angle"]).tolist() == [False, True, *[False] * 5]
    assert np.isnan(got["latitude"][0])
    assert np.isfinite(got["speed"]).all()
    assert np.isfinite(got["longitude"][0])


def test_an_infinite_sample_of_a_bag_becomes_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.data_files.steering_at", lambda t: np.inf if 0.13 < t < 0.15 else 0.5)
    made(write_bag(tmp_path / "a.bag", Drive(seconds=1, fps=7)), tmp_path / "out")
    angles = rows(tmp_path / "out")["steering_angle"]
    assert np.isnan(angles).tolist() == [False, True, *[False] * 5]
    assert (np.delete(angles, 1) == 0.5).all()
    monkeypatch.setattr("tests.support.data_files.speed_at", lambda t: 1e100)
    path = write_bag(tmp_path / "b.bag", Drive(seconds=1, topics=("camera", "twist")))
    made(path, tmp_path / "twist")
    assert np.isnan(rows(tmp_path / "twist")["speed"]).all()


def test_longitude_goes_on_across_the_date_line() -> None:
    times = np.arange(4) * 1_000_000_000
    fixes = np.zeros(4, [("stamp_ns", "<i8"), ("latitude", "<f8"), ("longitude", "<f8")])
    fixes["stamp_ns"], fixes["longitude"] = times, [179.9, 179.98, -179.98, -179.9]
    stamps = np.array([500_000_000, 1_250_000_000, 1_500_000_000, 1_750_000_000, 2_500_000_000])
    got = telemetry.align(stamps, np.zeros(5, np.uint8), {"gps": fixes}, 200.0)["longitude"]
    assert np.allclose(got, [179.94, 179.99, -180.0, -179.99, -179.94], atol=1e-9)


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag without the car's own reports: position and speed come 400 times a second, and what was made of it.

    Frames lie between the samples that are kept, and what is sampled is curved: one sample more shows.
    """
    folder = tmp_path_factory.mktemp("often")
    drive = Drive(seconds=2, start_s=0.0137, topics=("camera", "fix", "twist"))
    made(write_bag(folder / "drive.bag", drive, chunk_bytes=7_000), folder / "whole")
    known = rows(folder / "whole")
    assert not np.isnan(known["latitude"]).any()
    assert not np.isnan(known["speed"]).any()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1, 2), (2, 5), (7,)])
@pytest.mark.parametrize("form", ["bag", "archive", "stretches"])
def test_what_comes_400_times_a_second_is_thinned_alike_however_often_it_is_interrupted(
    form: str, stops: tuple[int, ...], often: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = often / "drive.bag"
    source = write_bag_archive(tmp_path / "drive.tar.gz", [bag]) if form == "archive" else bag
    commit = Part.commit
    left = 0

    def dies(self: Part, next_offset: int, connections: Mapping[int, Connection], *, done: bool = False) -> None:
        nonlocal left
        commit(self, next_offset, connections, done=done)
        left -= 1
        if left == 0:
            raise KilledError

    monkeypatch.setattr(Part, "commit", dies)
    options = {"commit_bytes": 20_000, "stretch_bytes": 60_000 if form == "stretches" else 4 << 30}
    for left in stops:  # noqa: B007 - it is counted down
        with pytest.raises(KilledError):
            made(source, tmp_path / "out", **options)
    made(source, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(often / "whole")


def test_another_drive_is_not_taken_for_the_one_that_is_there(bag: Path, tmp_path: Path) -> None:
    options = {"out": tmp_path / "out", "size": SIZE}
    prepare("udacity", Options(source=str(bag), **options))  # type: ignore[arg-type]
    copy = tmp_path / "copy.bag"
    copy.write_bytes(bag.read_bytes())
    assert not prepare("udacity", Options(source=str(copy), **options))[2]  # type: ignore[arg-type]
    copy.write_bytes(bag.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"out holds udacity prepared from other files than .*copy.bag; remove it or"):
        prepare("udacity", Options(source=str(copy), **options))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="https:/x does not exist; check --source"):
        prepare("udacity", Options(source="https://x", out=tmp_path / "new"))
    dump = write_dump(tmp_path / "dump", Drive(seconds=1))
    options["out"] = tmp_path / "of-dump"
    prepare("udacity", Options(source=str(dump), **options))  # type: ignore[arg-type]
    moved = dump.rename(tmp_path / "moved")
    assert not prepare("udacity", Options(source=str(moved), **options))[2]  # type: ignore[arg-type]
    (moved / "gear.csv").unlink()
    with pytest.raises(DataError, match="of-dump holds udacity prepared from other files than"):
        prepare("udacity", Options(source=str(moved), **options))  # type: ignore[arg-type]


def test_an_archive_is_compared_with_what_was_published(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from model.config import REGISTRY
    from model.data.digest import sha256_of

    path = write_bag_archive(tmp_path / "dataset.bag.tar.gz", [bag])
    options = Options(source=str(path), out=tmp_path / "out", size=SIZE)
    with pytest.raises(DataError, match=r"dataset.bag.tar.gz has [\d,]+ bytes, the published one 25,950,077,103"):
        prepare("udacity-2-1", options)
    entry = REGISTRY["udacity-2-1"]

    def publish(md5: str) -> None:
        file = replace(entry.files[0], bytes=path.stat().st_size, md5=md5)
        monkeypatch.setattr("model.config.data_recipe.REGISTRY", {entry.name: replace(entry, files=(file,), drive_s=2)})

    publish("0" * 32)
    with pytest.raises(
        DataError, match=rf"dataset.bag.tar.gz is not the published file: its md5 is \w{{32}}, not {'0' * 32}"
    ):
        prepare("udacity-2-1", options)
    assert not (tmp_path / "out" / "manifest.json").exists()
    publish(sha256_of(path, "md5"))
    result, _, _ = prepare("udacity-2-1", options)
    assert result.published
    assert result.sources[0]["md5"] == sha256_of(path, "md5")


# The damage table: each row is a test, and docs/data-damage.md is what the tests found.
Change = Callable[[bytes], bytes]


def chunk_at(content: bytes, number: int) -> int:
    """Where the header of a chunk begins."""
    at = -1
    for _ in range(number + 1):
        at = content.index(b"op=\x05", at + 1)
    start = at
    while struct.unpack_from("<I", content, start)[0] not in range(30, 80) or start + 80 < at:
        start -= 1
    return start


def zeroed(content: bytes) -> bytes:
    at = chunk_at(content, 3)
    return content[:at] + bytes(4096) + content[at + 4096 :]


def lying(content: bytes, by: int) -> bytes:
    """A chunk whose length field is wrong."""
    at = chunk_at(content, 2)
    field = at + 4 + struct.unpack_from("<I", content, at)[0]
    length = struct.unpack_from("<I", content, field)[0]
    return content[:field] + struct.pack("<I", (length + by) % 2**32) + content[field + 4 :]


def bomb(compression: str, size: int, promised: int) -> bytes:
    """A chunk of zeros that unpacks to more bytes than its header gives."""
    packed = bz2.compress(bytes(size)) if compression == "bz2" else lz4.frame.compress(bytes(size))
    fields = (b"op=\x05", b"compression=" + compression.encode(), b"size=" + struct.pack("<I", promised))
    head = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    return struct.pack("<I", len(head)) + head + struct.pack("<I", len(packed)) + packed


def flipped_image(content: bytes) -> bytes:
    at = content.index(b"\xff\xda", content.index(b"\xff\xd8\xff", len(content) // 2)) + 60
    return content[:at] + bytes(100) + content[at + 100 :]


def unindexed(content: bytes) -> bytes:
    at = content.index(b"index_pos=") + 10
    return content[:at] + bytes(8) + content[at + 8 :]


CASES: dict[str, tuple[str, Change]] = {
    "none": ("none", lambda c: c),
    "no index (the recorder was killed)": ("none", unindexed),
    "the last byte is missing": ("none", lambda c: c[:-1]),
    "cut off in the index": ("none", lambda c: c[: c.index(b"op=\x06") - 20]),
    "cut off in the middle": ("none", lambda c: c[: len(c) // 2]),
    "4 KiB of zeros over the beginning of a chunk": ("none", zeroed),
    "the same, without an index": ("none", lambda c: zeroed(unindexed(c))),
    "the length of a chunk is 100 bytes too large": ("none", lambda c: lying(c, 100)),
    "the length of a chunk is 100 bytes too small": ("none", lambda c: lying(c, -100)),
    "the length of a chunk is 4 GB": ("none", lambda c: lying(c, -(10**6))),
    "100 bytes of a JPEG are zero": ("none", flipped_image),
    "a bz2 chunk with a flipped byte": (
        "bz2",
        lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 8]) + c[len(c) // 2 + 1 :],
    ),
    "a bz2 chunk whose header gives 20 bytes and that unpacks to 10 MB": (
        "bz2",
        lambda c: c[: chunk_at(c, 2)] + bomb("bz2", 10**7, 20) + c[chunk_at(c, 2) :],
    ),
    "an lz4 chunk with 40 bytes of zeros": ("lz4", lambda c: c[: len(c) // 2] + bytes(40) + c[len(c) // 2 + 40 :]),
    "cut off after the first 13 bytes": ("none", lambda c: c[:13]),
    "empty": ("none", lambda c: b""),
    "of the older version 1.2": ("none", lambda c: b"#ROSRECORD V1.2\n" + c[13:]),
    "not a bag": ("none", lambda c: b"\x89PNG\r\n" + c),
}
ARCHIVES: dict[str, Change] = {
    "tar.gz cut off in the middle": lambda c: c[: len(c) // 2],
    "tar.gz with flipped bytes in the middle": lambda c: c[: len(c) // 2] + bytes(8) + c[len(c) // 2 + 8 :],
    "tar.gz without its last 8 bytes (checksum)": lambda c: c[:-8],
}


def table_row(title: str, source: Path, out: Path) -> str:
    try:
        result = made(source, out)
        kept, said = f"{count(result)} of 20", " ".join(result.notes[:1]) or "none"
        if len(result.notes) > 1:
            said += f" (and {len(result.notes) - 1} more)"
    except DataError as error:
        kept, said = "-", f"error: {error}"
    said = said.replace(str(source), source.name).replace(str(out), "OUT").replace("|", "/")
    return f"| {title} | {kept} | {said} |"


@pytest.mark.slow
def test_damage_table(tmp_path: Path) -> None:
    lines = []
    for number, (title, (compression, change)) in enumerate(CASES.items()):
        path = write_bag(tmp_path / str(number) / "drive.bag", SHORT, compression=compression)
        path.write_bytes(change(path.read_bytes()))
        lines.append(table_row(title, path, tmp_path / f"out-{number}"))
    for number, (title, change) in enumerate(ARCHIVES.items()):
        bag = write_bag(tmp_path / f"a{number}" / "drive.bag", SHORT)
        path = write_bag_archive(tmp_path / f"a{number}" / "drive.tar.gz", [bag], level=0)
        path.write_bytes(change(path.read_bytes()))
        lines.append(table_row(title, path, tmp_path / f"out-a{number}"))
    text = PAGE.read_text()
    begin, end = text.index("| damage |"), text.index("\n\n", text.index("| damage |"))
    table = "| damage | frames kept | note or error |\n|---|---|---|\n" + "\n".join(lines)
    if text[begin:end] != table:
        (tmp_path / "data-damage.md").write_text(text[:begin] + table + text[end:])
        pytest.fail(f"docs/data-damage.md differs from the results; the new table is in {tmp_path / 'data-damage.md'}")


@pytest.mark.parametrize("compression", ["bz2", "lz4"])
def test_a_chunk_that_unpacks_to_far_more_than_its_header_gives_takes_no_memory(
    compression: str, tmp_path: Path
) -> None:
    path = write_bag(tmp_path / "drive.bag", SHORT, compression=compression)
    content = path.read_bytes()
    at = chunk_at(content, 0)
    path.write_bytes(content[:at] + bomb(compression, 64 << 20, 20) + content[at:])
    tracemalloc.start()
    try:
        result = made(path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert count(result) == 20
    assert f"drive.bag: byte {at}: a chunk of more than 4194304 bytes whose header gives 20" in result.notes[0]
    path.write_bytes(content[:at] + bomb(compression, 100, 3 << 30) + content[at:])
    assert (
        f"byte {at}: a chunk whose header gives 3221225472 bytes; reading continues at"
        in made(path, tmp_path / "more").notes[0]
    )


@pytest.mark.parametrize(
    ("title", "least"),
    [
        ("no index (the recorder was killed)", 20),
        ("the last byte is missing", 20),
        ("cut off in the index", 20),
        ("cut off in the middle", 7),
        ("4 KiB of zeros over the beginning of a chunk", 15),
        ("the length of a chunk is 100 bytes too large", 15),
        ("the length of a chunk is 100 bytes too small", 15),
        ("the length of a chunk is 4 GB", 15),
        ("100 bytes of a JPEG are zero", 19),
        ("a bz2 chunk with a flipped byte", 14),
    ],
)
def test_what_is_whole_is_kept_as_it_was(title: str, least: int, whole: Path, tmp_path: Path) -> None:
    compression, change = CASES[title]
    path = write_bag(tmp_path / "drive.bag", SHORT, compression=compression)
    path.write_bytes(change(path.read_bytes()))
    result = made(path, tmp_path / "out")
    assert count(result) >= least
    assert result.notes if count(result) < 20 else True
    stamps = rows(whole)["stamp_ns"].tolist()
    everything = np.concatenate([load(str(whole)).split(split) for split in ("train", "valid", "test")])  # type: ignore[arg-type]
    order = {tuple(image.reshape(-1).tolist()) for image in everything}
    for split in result.splits:
        for image in load(str(tmp_path / "out")).split(split):  # type: ignore[arg-type]
            assert tuple(image.reshape(-1).tolist()) in order
    assert set(rows(tmp_path / "out")["stamp_ns"].tolist()) <= set(stamps)
