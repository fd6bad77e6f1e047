"""Files of the real formats, written by other code than ours where there is some, from real images (scikit-learn's)."""

from __future__ import annotations

import functools
import gzip
import io
import math
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.data import photos
from model.data.digits import load as load_digits

Pixels = NDArray[np.uint8]
BEGAN_NS = 1_475_522_414_000_000_000  # 3 October 2016, 12:20 in Mountain View
CAMERAS = ("left", "center", "right")


@functools.cache
def photographs() -> tuple[Pixels, ...]:
    """The two photographs, (427, 640, 3) each."""
    return tuple(photos.photographs())


def crops(count: int, side: int, seed: int = 0) -> Pixels:
    """Real colour images: crops of the photographs at several scales, (N, side, side, 3)."""
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        photograph = photographs()[int(chance.integers(2))]
        reach = int(chance.integers(side, 400))
        top, left = int(chance.integers(427 - reach + 1)), int(chance.integers(640 - reach + 1))
        cut = Image.fromarray(photograph[top : top + reach, left : left + reach])
        found.append(np.asarray(cut.resize((side, side), Image.Resampling.BOX)))
    return np.stack(found)


@functools.cache
def mini_mnist(count: int) -> tuple[Pixels, Pixels]:
    """The digits as MNIST has its own: (N, 28, 28) gray, and labels that are made up."""
    train, _, _ = load_digits()
    gray = (train[:count, 0].astype(np.uint16) * 255 // 16).astype(np.uint8)
    large = gray.repeat(3, axis=1).repeat(3, axis=2)
    return np.pad(large, ((0, 0), (2, 2), (2, 2))), (np.arange(count) % 10).astype(np.uint8)


def idx(array: Pixels) -> bytes:
    """An IDX file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder: Path, train: int = 60, test: int = 12, *, packed: bool = True) -> Path:
    """MNIST's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = mini_mnist(train + test)
    parts = {"train": (images[:train], labels[:train]), "t10k": (images[train:], labels[train:])}
    for stem, (some, named) in parts.items():
        for name, content in ((f"{stem}-images-idx3-ubyte", idx(some)), (f"{stem}-labels-idx1-ubyte", idx(named))):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_amat(folder: Path, counts: tuple[int, int, int] = (40, 10, 10)) -> Path:
    """The three files of the binarisation that was published."""
    folder.mkdir(parents=True, exist_ok=True)
    images, _ = mini_mnist(sum(counts))
    binary = (images >= 128).astype(np.uint8).reshape(-1, 784)
    start = 0
    for split, count in zip(("train", "valid", "test"), counts, strict=True):
        with (folder / f"binarized_mnist_{split}.amat").open("w", newline="\n") as file:
            np.savetxt(file, binary[start : start + count], fmt="%d")
        start += count
    return folder


def cifar_batches(per_batch: int) -> list[tuple[Pixels, Pixels]]:
    """Six batches of (N, 32, 32, 3) and labels."""
    images = crops(6 * per_batch, 32)
    labels = (np.arange(len(images)) % 10).astype(np.uint8)
    cuts = [slice(start, start + per_batch) for start in range(0, len(images), per_batch)]
    return [(images[cut], labels[cut]) for cut in cuts]


def write_cifar(path: Path, per_batch: int = 10, *, pickled: bool = False) -> Path:
    """The tar.gz of CIFAR-10, as bytes or as pickles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, (images, labels) in zip(names, cifar_batches(per_batch), strict=True):
            planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
            if pickled:
                batch = {b"batch_label": b"batch 1 of 6", b"labels": labels.tolist(), b"data": planes, b"filenames": []}
                add(tar, f"cifar-10-batches-py/{name}", pickle.dumps(batch, protocol=2))
            else:
                content = np.concatenate([labels[:, None], planes], axis=1).tobytes()
                add(tar, f"cifar-10-batches-bin/{name}.bin", content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put bytes into a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def png(image: Pixels) -> bytes:
    """A PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def write_png_tar(path: Path, images: Pixels, folder: str, form: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of PNG files, as the paper's ImageNet is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for number, image in enumerate(images):
            add(tar, f"{folder}/{number + 1:07d}.png", png(image))
    return path


def npz(images: Pixels) -> bytes:
    """A batch of Chrabaszcz' ImageNet."""
    out = io.BytesIO()
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    np.savez(out, data=planes, labels=np.arange(len(images)) % 1000 + 1, mean=planes.mean(axis=0))
    return out.getvalue()


def write_npz_zip(path: Path, batches: dict[str, Pixels]) -> Path:
    """A zip of such batches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for name, images in batches.items():
            out.writestr(name, npz(images))
    return path


# Dataspeed's definitions of 2016 (dbw_mkz_msgs 1.0.0 to 1.0.6), whose MD5 sums rosbags computes alike.
STEERING = """Header header
float32 steering_wheel_angle
float32 steering_wheel_angle_cmd
float32 steering_wheel_torque
float32 speed
bool enabled
bool override
bool driver
bool fault_wdc
bool fault_bus1
bool fault_bus2
bool fault_calibration
bool fault_connector
"""
BRAKE = """Header header
float32 pedal_input
float32 pedal_cmd
float32 pedal_output
float32 torque_input
float32 torque_cmd
float32 torque_output
bool boo_input
bool boo_cmd
bool boo_output
bool enabled
"""
THROTTLE = """Header header
float32 pedal_input
float32 pedal_cmd
float32 pedal_output
bool enabled
"""
GEAR = "uint8 gear\nuint8 NONE=0\nuint8 PARK=1\nuint8 REVERSE=2\nuint8 NEUTRAL=3\nuint8 DRIVE=4\nuint8 LOW=5\n"
GEAR_REPORT = "Header header\ndbw_mkz_msgs/Gear state\ndbw_mkz_msgs/Gear cmd\nbool override\nbool fault_bus\n"


@functools.cache
def typestore() -> Any:
    """The types of a drive, for the rosbags library."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    for name, text in (
        ("SteeringReport", STEERING),
        ("BrakeReport", BRAKE),
        ("ThrottleReport", THROTTLE),
        ("Gear", GEAR),
        ("GearReport", GEAR_REPORT),
    ):
        store.register(get_types_from_msg(text, f"dbw_mkz_msgs/msg/{name}"))
    return store


@dataclass(frozen=True)
class Drive:
    """A drive that never was, over photographs that are: what its cameras see and what the car says."""

    seconds: float = 4.0
    fps: int = 10
    width: int = 96
    height: int = 72
    cameras: tuple[str, ...] = ("center",)
    jpeg: bool = True
    hole_s: tuple[float, float] = (0.0, 0.0)  # no steering reports in between
    topics: tuple[str, ...] = ("camera", "vehicle")  # or "fix", "twist": the second receiver, 400 times a second
    start_s: float = 0.0
    seed: int = 0

    def frame(self, t: float, camera: str) -> Pixels:
        """What a camera sees: a window that moves over a photograph, (height, width, 3) RGB."""
        photograph = panorama(self.height, self.width)
        reach = photograph.shape[1] - self.width
        shift = {"left": -8, "center": 0, "right": 8}[camera]
        left = round(reach * (0.5 + 0.45 * math.sin(0.5 * t))) + shift
        left = max(0, min(reach, left))
        return np.ascontiguousarray(photograph[: self.height, left : left + self.width])

    def stamps(self, hz: float) -> list[int]:
        """Stamps of something that comes so often, in ns."""
        count = round(self.seconds * hz)
        return [BEGAN_NS + round((self.start_s + number / hz) * 1e9) for number in range(count)]


def steering_at(t: float) -> float:
    """The angle of the wheel in the hand, rad."""
    return 0.5 * math.sin(0.7 * t)


def speed_at(t: float) -> float:
    """The speed, m/s: it stands at first."""
    return max(0.0, 3.0 * (t - 0.5))


@functools.cache
def panorama(height: int, width: int) -> Pixels:
    """Both photographs side by side, as high as a frame."""
    both = np.concatenate([photographs()[0], photographs()[1], photographs()[0][:, ::-1]], axis=1)
    wide = round(both.shape[1] * height / both.shape[0])
    return np.asarray(Image.fromarray(both).resize((max(wide, 2 * width), height), Image.Resampling.BICUBIC))


def messages(drive: Drive) -> Iterator[tuple[int, str, str, Any]]:
    """All messages of a drive in the order of their stamps: (ns, topic, type, message)."""
    import simplejpeg

    store = typestore()
    types = store.types
    stamp, header = types["builtin_interfaces/msg/Time"], types["std_msgs/msg/Header"]

    def head(ns: int, frame: str = "") -> Any:
        return header(seq=0, stamp=stamp(sec=ns // 10**9, nanosec=ns % 10**9), frame_id=frame)

    found: list[tuple[int, str, str, Any]] = []
    if "camera" in drive.topics:
        for camera in drive.cameras:
            for ns in drive.stamps(drive.fps):
                pixels = drive.frame((ns - BEGAN_NS) / 1e9, camera)
                topic = f"/{camera}_camera/image_color"
                if drive.jpeg:
                    data = np.frombuffer(simplejpeg.encode_jpeg(pixels, quality=80), np.uint8)
                    kind = "sensor_msgs/msg/CompressedImage"
                    message = types[kind](head(ns, f"{camera}_camera"), "bgr8; jpeg compressed bgr8", data)
                    found.append((ns, f"{topic}/compressed", kind, message))
                else:
                    kind = "sensor_msgs/msg/Image"
                    data = np.ascontiguousarray(pixels[..., ::-1]).reshape(-1)
                    h, w, _ = pixels.shape
                    message = types[kind](head(ns, f"{camera}_camera"), h, w, "bgr8", 0, 3 * w, data)
                    found.append((ns, topic, kind, message))
    if "vehicle" in drive.topics:
        found += _reports(drive, types, head)
    if "fix" in drive.topics:
        kind, status = "sensor_msgs/msg/NavSatFix", types["sensor_msgs/msg/NavSatStatus"](0, 1)
        for ns in drive.stamps(400):
            t = (ns - BEGAN_NS) / 1e9
            fix = types[kind](head(ns), status, 37.4 + 1e-4 * t * t, -122.1 - 1e-4 * t, 10.0, np.zeros(9), 0)
            found.append((ns, "/fix", kind, fix))
    if "twist" in drive.topics:
        kind, vector = "geometry_msgs/msg/TwistStamped", types["geometry_msgs/msg/Vector3"]
        for ns in drive.stamps(400):
            speed = vector(speed_at((ns - BEGAN_NS) / 1e9) ** 2, 0.0, 0.0)
            twist = types["geometry_msgs/msg/Twist"](speed, vector(0.0, 0.0, 0.0))
            found.append((ns, "/vel", kind, types[kind](head(ns), twist)))
    return iter(sorted(found, key=lambda one: (one[0], one[1])))


def _reports(drive: Drive, types: Any, head: Any) -> list[tuple[int, str, str, Any]]:
    found: list[tuple[int, str, str, Any]] = []
    package = "dbw_mkz_msgs/msg/"
    no = [False] * 8
    for ns in drive.stamps(50):
        t = (ns - BEGAN_NS) / 1e9
        if not drive.hole_s[0] <= t < drive.hole_s[1]:
            report = types[package + "SteeringReport"](head(ns), steering_at(t), 0.0, 0.0, speed_at(t), *no)
            found.append((ns, "/vehicle/steering_report", package + "SteeringReport", report))
        brake = types[package + "BrakeReport"](head(ns), 0.15 + 0.01 * t, 0, 0, 0, 0, 0, False, False, False, False)
        found.append((ns, "/vehicle/brake_report", package + "BrakeReport", brake))
        throttle = types[package + "ThrottleReport"](head(ns), 0.2 + 0.01 * t, 0, 0, False)
        found.append((ns, "/vehicle/throttle_report", package + "ThrottleReport", throttle))
    gear = types[package + "Gear"]
    for ns in drive.stamps(20):
        now = gear(4 if (ns - BEGAN_NS) / 1e9 >= 0.5 else 1)
        found.append((ns, "/vehicle/gear_report", package + "GearReport", types[package + "GearReport"](
            head(ns), now, gear(0), False, False)))  # fmt: skip
    fix, status = "sensor_msgs/msg/NavSatFix", types["sensor_msgs/msg/NavSatStatus"]
    for ns in drive.stamps(1):
        t = (ns - BEGAN_NS) / 1e9
        position = types[fix](head(ns), status(0, 1), 37.4 + 1e-4 * t, -122.1 - 1e-4 * t, 10.0, np.zeros(9), 0)
        found.append((ns, "/vehicle/gps/fix", fix, position))
    return found


def write_bag(path: Path, drive: Drive, *, compression: str = "none", chunk_bytes: int = 20_000) -> Path:
    """A bag, written by the rosbags library."""
    from rosbags.rosbag1 import Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    store = typestore()
    writer = Writer(path)
    if compression != "none":
        writer.set_compression(Writer.CompressionFormat[compression.upper()])
    writer.chunk_threshold = chunk_bytes
    with writer:
        connections: dict[str, Any] = {}
        for ns, topic, kind, message in messages(drive):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            # Recorded anew hours later, as Udacity's own second packaging was: only the header's stamp tells the time.
            writer.write(connections[topic], ns + 3600 * 10**9, store.serialize_ros1(message, kind))
    return path


def write_bag_archive(path: Path, bags: list[Path], level: int = 1) -> Path:
    """A tar.gz of bags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=level) as tar:
        for bag in bags:
            info = tarfile.TarInfo(bag.name)  # without the time of day: the same bytes each time
            info.size = bag.stat().st_size
            with bag.open("rb") as file:
                tar.addfile(info, file)
    return path


def write_dump(folder: Path, drive: Drive) -> Path:
    """The folder that rwightman's reader makes of a bag."""
    import csv

    import simplejpeg

    (folder / "center").mkdir(parents=True)
    with (folder / "camera.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["timestamp", "width", "height", "frame_id", "filename"])
        for ns in drive.stamps(drive.fps):
            name = f"center/{ns}.jpg"
            pixels = drive.frame((ns - BEGAN_NS) / 1e9, "center")
            (folder / name).write_bytes(simplejpeg.encode_jpeg(pixels, quality=80))
            table.writerow([ns, drive.width, drive.height, "center_camera", name])
    columns: dict[str, tuple[int, list[str], Any]] = {
        "steering": (50, ["timestamp", "angle", "torque", "speed"], lambda t: [steering_at(t), 0.0, speed_at(t)]),
        "gps": (1, ["timestamp", "status", "service", "lat", "long", "alt"],
                lambda t: [0, 1, 37.4 + 1e-4 * t, -122.1 - 1e-4 * t, 10.0]),
        "gear": (20, ["timestamp", "gear_state", "gear_cmd"], lambda t: [4 if t >= 0.5 else 1, 0]),
        "brake": (50, ["timestamp", "brake_input"], lambda t: [0.15 + 0.01 * t]),
        "throttle": (50, ["timestamp", "throttle_input"], lambda t: [0.2 + 0.01 * t]),
    }  # fmt: skip
    for name, (hz, head, row) in columns.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(head)
            for ns in drive.stamps(hz):
                table.writerow([ns, *row((ns - BEGAN_NS) / 1e9)])
    return folder


def write_topics(path: Path, topics: dict[str, int], *, encoding: str = "bgr8", colour: int = 40) -> Path:
    """A bag of topics of images, each with so many frames at 10 Hz; those of the n-th topic are of its own gray."""
    import simplejpeg
    from rosbags.rosbag1 import Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    store = typestore()
    types, stamp = store.types, store.types["builtin_interfaces/msg/Time"]
    with Writer(path) as writer:
        for number, (topic, count) in enumerate(topics.items(), 1):
            pixels = np.full((48, 64, 3), colour * number, np.uint8)
            packed = topic.endswith("/compressed")
            kind = f"sensor_msgs/msg/{'CompressedImage' if packed else 'Image'}"
            connection = writer.add_connection(topic, kind, typestore=store)
            for index in range(count):
                ns = BEGAN_NS + index * 10**8
                head = types["std_msgs/msg/Header"](seq=0, stamp=stamp(ns // 10**9, ns % 10**9), frame_id="")
                if packed:
                    data = np.frombuffer(simplejpeg.encode_jpeg(pixels, quality=95), np.uint8)
                    message = types[kind](head, "bgr8; jpeg compressed bgr8", data)
                else:
                    message = types[kind](head, 48, 64, encoding, 0, 3 * 64, pixels.reshape(-1))
                writer.write(connection, ns, store.serialize_ros1(message, kind))
    return path
