"""Which camera a topic is; a recording of another format; what is no data beside bags."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model.__main__ import main
from model.config.data_recipe import Options
from model.data import load
from model.data.driving import frames
from model.data.driving.cameras import Cameras, base_of, named
from model.data.driving.frames import Recipe
from model.data.driving.mosaic import PATTERNS, SIXTEEN, demosaiced
from model.data.manifest import Manifest
from model.data.prepare.prepare import prepare
from model.errors import DataError
from tests.support.data_files import Drive, write_bag, write_bag_archive, write_dump, write_topics

CENTER, REAR = "/center_camera/image_color/compressed", "/rear_view/image_color/compressed"


def made(source: Path, out: Path, **options: object) -> Manifest:
    return prepare("udacity", Options(source=str(source), out=out, size=8, **options))[0]  # type: ignore[arg-type]


def count(result: Manifest) -> int:
    return sum(result.splits.values())


def grays(out: Path) -> set[int]:
    """The gray of each topic in what was prepared, rounded."""
    data = load(str(out))
    found = np.concatenate([data.split(split) for split in ("train", "valid", "test")])  # type: ignore[arg-type]
    return {round(float(value) / 40) for value in found.mean(axis=(1, 2, 3))}


@pytest.mark.parametrize(
    ("topic", "camera"),
    [
        ("/center_camera/image_color", "center"),
        ("/left_camera/image_color/compressed", "left"),
        ("/right_camera/image_raw", "right"),
        ("/camera_left/image_raw", "left"),
        ("/stereo/right/image_rect", "right"),
        ("/leftcam/image", "left"),
        ("/cam_centre/image", "center"),
        ("/frontLeftCamera/image", "left"),
        ("/usb_cam/image_raw", None),
        ("/front_camera/image_raw", None),
        ("/rear_left_camera/image_raw", None),
        ("/upright_camera/image_raw", None),
        ("/bright/image", None),
        ("/left_right/image", None),
        ("/center_camera/depth/image_raw", None),
        ("/rear_view/image", None),
    ],
)
def test_a_topic_names_its_camera_by_a_whole_word(topic: str, camera: str | None) -> None:
    assert named(topic) == camera


def test_a_camera_beside_the_centre_is_an_error_that_lists_the_topics(tmp_path: Path) -> None:
    bag = write_topics(tmp_path / "a.bag", {CENTER: 36, REAR: 30})
    for source in (bag, write_bag_archive(tmp_path / "a.tar.gz", [bag])):
        with pytest.raises(DataError) as caught:
            made(source, tmp_path / "no")
        assert str(caught.value) == (
            f"2 topics could be the center camera: {CENTER} (36 frames), {REAR} (30 frames); "
            f"name it with --topic, such as --topic center={CENTER}"
        )
        out = tmp_path / f"out-{source.name}"
        assert count(made(source, out, topics=(f"center={CENTER}",))) == 36
        assert grays(out) == {1}
        assert count(made(source, tmp_path / f"rear-{source.name}", topics=(f"center={REAR}",))) == 30
        assert grays(tmp_path / f"rear-{source.name}") == {2}


@pytest.mark.parametrize(
    ("topics", "wanted", "frames_", "says"),
    [
        ({"/usb_cam/image_raw": 5}, "center", 5, ""),  # the only one that could be it
        ({"/usb_cam/image_raw": 5, "/left_camera/image": 4}, "center", 5, ""),
        ({"/usb_cam/image_raw": 5, "/camera/depth/image": 4}, "center", 5, ""),
        ({"/usb_cam/image_raw": 5, "/webcam/image": 4}, "center", 0, "2 topics could be the center camera"),
        ({"/left_camera/image": 5, "/rear_view/image": 4}, "left", 5, ""),
        ({"/left_camera/image": 5, "/stereo/left/image": 4}, "left", 0, "2 topics could be the left camera"),
        ({"/rear_view/image": 4}, "center", 0, r"no frames of center in .*; its topics of images: /rear_view/image"),
        ({"/center_camera/image": 4}, "left", 0, r"no frames of left in .*--topic left=/center_camera/image"),
        ({"/left/i": 3, "/center/i": 3, "/right/i": 3}, "all", 9, ""),
        ({"/left/i": 3, "/center/i": 3, "/right/i": 3, "/side/i": 3}, "all", 0, "2 topics could be the center"),
    ],
)
def test_which_topics_are_which_cameras(
    topics: dict[str, int], wanted: str, frames_: int, says: str, tmp_path: Path
) -> None:
    bag = write_topics(tmp_path / "a.bag", topics)
    if says:
        with pytest.raises(DataError, match=says):
            made(bag, tmp_path / "out", cameras=wanted)
    else:
        assert count(made(bag, tmp_path / "out", cameras=wanted)) == frames_


def test_the_stride_is_by_topic_and_one_camera_in_two_transports_is_one(tmp_path: Path) -> None:
    raw, packed = "/center_camera/image_raw", "/center_camera/image_raw/compressed"
    for number, topics in enumerate(({raw: 20, packed: 20}, {packed: 20, raw: 13})):
        bag = write_topics(tmp_path / f"{number}.bag", topics)
        for stretch in (1 << 32, 20_000):
            out = tmp_path / f"{number}-{stretch}"
            assert count(made(bag, out, stride=4, stretch_bytes=stretch)) == 5
            assert grays(out) == {1}  # the raw one, or the one with more frames
    both = write_topics(tmp_path / "both.bag", {"/left_camera/i": 10, "/right_camera/i": 20})
    assert count(made(both, tmp_path / "both", cameras="left,right", stride=3)) == 4 + 7


@pytest.mark.parametrize(
    ("topics", "cameras", "says"),
    [
        (("center=/no/such",), "center", r"--topic center=no/such: there is no such topic .*: /a/i \(3 frames\)"),
        (("left=/a/i",), "center", "left is not among --cameras; add it: --cameras left,center"),
    ],
)
def test_a_wrong_topic_is_one_line(topics: tuple[str, ...], cameras: str, says: str, tmp_path: Path) -> None:
    bag = write_topics(tmp_path / "a.bag", {"/a/i": 3})
    with pytest.raises(DataError, match=says):
        made(bag, tmp_path / "out", topics=topics, cameras=cameras)


def test_topics_can_be_given_without_their_transport_and_several_for_one_camera(tmp_path: Path) -> None:
    bag = write_topics(tmp_path / "a.bag", {"/a/i/compressed": 3, "/b/i": 4, "/c/i": 5})
    assert count(made(bag, tmp_path / "one", topics=("center=/a/i",))) == 3
    result = made(bag, tmp_path / "two", topics=("left=/b/i", "right=/c/i"), cameras="left,right")
    assert count(result) == 9
    assert base_of("/a/i/compressed") == "a/i"


def test_the_flag_is_checked_and_part_of_the_recipe_only_where_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_topics(tmp_path / "a.bag", {"/a/i": 30, "/b/i": 4})
    words = ["data", "prepare", "udacity", "--source", str(bag), "--size", "8", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "could be the center camera: /a/i (30 frames), /b/i (4 frames)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--topic", "front=/a/i"])
    assert "is not CAMERA=TOPIC with left, center, right" in capsys.readouterr().err
    assert main([*words, "--topic", "center=/a/i"]) == 0
    assert main([*words, "--topic", "center=a/i/"]) == 0
    assert "was prepared already" in capsys.readouterr().out
    with pytest.raises(DataError, match="--topic does not apply to images"):
        prepare("images", Options(source=str(bag), out=tmp_path / "x", size=8, topics=("center=/a",)))
    assert "topics" not in made(bag, tmp_path / "b", cameras="center", topics=("center=/b/i",)).recipe
    alone = write_topics(tmp_path / "b.bag", {"/a/i": 30})
    assert "topics" not in made(alone, tmp_path / "c").recipe["asked"]


def test_an_exchanged_bag_beside_another_is_one_drive(tmp_path: Path) -> None:
    topics = {"/left_camera/i": 3, "/center_camera/i": 4}
    write_topics(tmp_path / "in" / "2016-10-20.bag", topics)
    write_topics(tmp_path / "in" / "2016-10-25-x.bag", {topic: frames_ + 2 for topic, frames_ in topics.items()})
    cameras = Cameras(("center",))
    assert cameras.of_topic("/left_camera/i", "2016-10-25-x.bag") == "center"
    made(tmp_path / "in", tmp_path / "out")


def test_a_table_names_its_cameras_too(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", Drive(seconds=1))
    lines = (dump / "camera.csv").read_text().splitlines()
    lines[1:] = [*lines[1:8], *(line.replace("center_camera", "rear_camera") for line in lines[8:])]
    (dump / "camera.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"2 topics could be .*center_camera \(7 frames\), rear_camera \(3 frames\)"):
        made(dump, tmp_path / "no")
    assert count(made(dump, tmp_path / "out", topics=("center=center_camera",))) == 7


def test_what_is_no_data_beside_bags_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_bag(folder / "drive.bag", Drive(seconds=1))
    (folder / "._drive.bag").write_bytes(b"\x00\x05\x16\x07" + bytes(120))
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "drive.bag").write_bytes(b"x")
    result = made(folder, tmp_path / "out")
    assert (count(result), result.left_out) == (10, {"._*": 1, "@eaDir": 1})
    with zipfile.ZipFile(tmp_path / "drive.zip", "w") as archive:
        archive.write(folder / "drive.bag", "x/drive.bag")
        archive.writestr("__MACOSX/x/._drive.bag", b"\x00\x05\x16\x07")
    packed = made(tmp_path / "drive.zip", tmp_path / "zip")
    assert (count(packed), packed.left_out) == (10, {"__MACOSX": 1})
    again = made(
        write_bag_archive(tmp_path / "a.tar.gz", [folder / "._drive.bag", folder / "drive.bag"]), tmp_path / "t"
    )
    assert (count(again), again.left_out) == (10, {"._*": 1})


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--dst-storage", "mcap"]])
def test_a_bag_of_ros_2_is_named_with_the_tool_that_converts_it(words: list[str], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive.bag", Drive(seconds=1))
    two = tmp_path / "two"
    convert = [sys.executable, "-m", "rosbags.convert"]
    subprocess.run([*convert, "--src", bag, "--dst", two, *words], check=True)
    recording = next(path for path in two.iterdir() if path.suffix != ".yaml")
    what = r"an MCAP file of ROS 2" if words else r"a ROS 2 bag \(SQLite\)"
    with pytest.raises(DataError, match=rf"two/\S+ is {what}, not a bag of ROS 1; convert it: .*--src \S*two "):
        made(recording, tmp_path / "no")
    with pytest.raises(DataError, match=r"two is a ROS 2 bag, not a bag of ROS 1; convert it: pip install rosbags, "):
        made(two, tmp_path / "no")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / recording.name).write_bytes(recording.read_bytes())
    with pytest.raises(DataError, match=rf"is {what}.*rosbags-convert --src \S*loose/\S+ --dst two.bag"):
        made(tmp_path / "loose", tmp_path / "no")
    packed = write_bag_archive(tmp_path / "two.tar.gz", [recording])
    with pytest.raises(DataError, match=rf"two.tar.gz:two\S+ is {what}.*; unpack the archive and convert it"):
        made(packed, tmp_path / "no")
    back = tmp_path / "back.bag"
    subprocess.run([*convert, "--src", two, "--dst", back], check=True)  # what the message says
    assert count(made(back, tmp_path / "out")) == 10


def mosaic_of(scene: np.ndarray, pattern: str) -> np.ndarray:
    """What a Bayer sensor sees of a scene."""
    rows, columns = np.indices(scene.shape[:2])
    place = np.array(["rgb".index(colour) for colour in pattern])[(rows % 2) * 2 + columns % 2]
    return np.take_along_axis(scene, place[..., None], axis=2)[..., 0]


def message(values: np.ndarray, encoding: str, *, big: bool = False, padding: int = 6) -> dict[str, object]:
    height = len(values)
    content = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    rows = np.ascontiguousarray(content.reshape(height, -1)).view(np.uint8)
    padded = np.concatenate([rows, np.full((height, padding), 7, np.uint8)], axis=1)
    return {
        "height": height,
        "width": values.shape[1],
        "step": padded.shape[1],
        "encoding": encoding,
        "is_bigendian": int(big),
        "data": memoryview(padded.reshape(-1)),
    }


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("big", [False, True])
def test_each_bayer_pattern_gives_the_colours_of_the_scene(pattern: str, bits: int, big: bool) -> None:
    plain = np.broadcast_to(np.array([200, 90, 30], np.uint8), (32, 32, 3))
    smooth = Drive().frame(0.0, "center")[:64, :64]
    for scene, limit in ((plain, 0.0), (smooth, 12.0)):
        values = mosaic_of(scene, pattern)
        if bits == 16:
            values = values.astype(np.uint16) * 257
        got = frames.from_raw(message(values, f"bayer_{pattern}{bits}", big=big), Recipe(16))
        wanted = frames.from_raw(message(scene, "rgb8", padding=0), Recipe(16))
        assert np.abs(got.astype(float) - wanted).mean() <= limit
    assert demosaiced(mosaic_of(plain[:5, :7], pattern), pattern).tolist() == plain[:5, :7].tolist()


@pytest.mark.parametrize("encoding", list(SIXTEEN))
@pytest.mark.parametrize("big", [False, True])
def test_each_encoding_of_16_bits_keeps_the_upper_eight(encoding: str, big: bool) -> None:
    depth, places = SIXTEEN[encoding]
    values = np.random.default_rng(0).integers(0, 1 << 16, (16, 16, depth)).astype(np.uint16)
    got = frames.from_raw(message(values, encoding, big=big), Recipe(16))
    wanted = np.stack([values[..., places[index % len(places)]] >> 8 for index in range(3)], axis=2)
    assert np.array_equal(got, wanted)


def test_a_mosaic_that_was_compressed_as_it_is_gets_its_colours() -> None:
    import simplejpeg

    plain = np.broadcast_to(np.array([200, 90, 30], np.uint8), (64, 64, 3))
    gray = simplejpeg.encode_jpeg(mosaic_of(plain, "grbg")[..., None].copy(), quality=100, colorspace="GRAY")
    for encoding, colourful in (("bayer_grbg8; jpeg compressed ", True), ("mono8; jpeg compressed mono8", False)):
        got = frames.from_compressed(memoryview(gray), Recipe(8), encoding)
        assert (int(got[..., 0].mean()) > int(got[..., 2].mean()) + 100) is colourful
    colours = simplejpeg.encode_jpeg(plain.copy(), quality=95)
    got = frames.from_compressed(memoryview(colours), Recipe(8), "bayer_grbg8; jpeg compressed bgr8")
    assert np.abs(got.astype(float) - plain[0, 0]).max() < 6


@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
def test_a_mosaic_of_one_row_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="an image of"):
        frames.from_raw(message(np.zeros(size, np.uint8), "bayer_rggb8"), Recipe(8))
