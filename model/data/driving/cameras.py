"""Tells which camera a topic is: by its name, or by --topic. A camera that is not named is not taken for the centre.

Without --topic a topic counts as the camera that its name says. A topic whose name says no camera counts as the centre
only if it is the only one that could be it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from model.errors import DataError

SWAPPED = "2016-10-25"  # bags of this day have the left and centre camera exchanged (as in Udacity's reader)
WORDS = {"left": "left", "right": "right", "center": "center", "centre": "center", "middle": "center"}
NAMED = re.compile(r"(?:cam|camera|image|img)?(left|right|center|centre|middle)(?:cam|camera|image|img|view)?")
# Words of cameras that look elsewhere: never the centre by themselves, but the user may have meant one.
ELSEWHERE = frozenset(
    {
        "rear", "back", "backward", "behind", "reverse", "side", "top", "up", "down", "bottom", "bird", "birdseye",
        "bev", "driver", "cabin", "interior", "inside", "wrist", "gripper", "ir", "infra", "infrared", "thermal",
        "lwir", "debug", "overlay", "annotated", "detection", "detections"
    }
)  # fmt: skip
# Words of images that are no pictures.
NO_PICTURE = frozenset(
    {
        "depth", "disparity", "mask", "segmentation", "semantic", "label", "labels", "heatmap", "lidar", "intensity",
        "reflec", "signal", "ambient", "confidence"
    }
)  # fmt: skip
TRANSPORTS = ("/compressed", "/compresseddepth")  # image_transport adds them to the topic of the camera
SHOWN = 12  # topics in a message, at most


@dataclass(frozen=True)
class Cameras:
    """The cameras to extract, and the topics that --topic gives for them."""

    wanted: tuple[str, ...]
    given: tuple[tuple[str, str], ...] = ()  # (camera, topic)

    def of_topic(self, topic: str, bag: str) -> str | None:
        """Return the wanted camera that a topic may be; None if its frames are not needed.

        Args:
            topic: the topic, or the `frame_id` in the tables of a folder.
            bag: the name of the bag, since the names of two cameras are exchanged in some.
        """
        fitting = [camera for camera, given in self.given if given in (_bare(topic), base_of(topic))]
        if fitting:
            return fitting[0]
        camera = swapped(named(topic), bag)
        if camera is None:
            camera = None if is_other(topic) else "center"
        asked = camera in self.wanted and camera not in dict(self.given)
        return camera if asked else None

    def check(self, found: Mapping[tuple[str, str], int], *, complete: bool = True) -> None:
        """Check that each camera is one topic.

        Args:
            found: the number of frames by (bag, topic), of all topics of images.
            complete: whether all bags are counted; else a topic that is missing may still come.

        Raises:
            DataError: several topics could be a camera, or the topic of --topic does not exist; the message lists the
                topics with their numbers of frames.
        """
        frames: dict[str, int] = {}
        for (_, topic), count in found.items():
            frames[topic] = frames.get(topic, 0) + count
        for camera, given in self.given:
            if complete and not any(given in (_bare(topic), base_of(topic)) for topic in frames):
                raise DataError(f"--topic {camera}={given}: there is no such topic of images; {listed(frames)}")
        for camera in self.wanted:
            if camera in dict(self.given):
                continue
            some = {
                (bag, topic): count
                for (bag, topic), count in found.items()
                if count and self._could_be(camera, topic, bag) and not self._is_given(topic)
            }
            sources = {_source(topic, bag) for bag, topic in some}
            if len(sources) < 2:
                continue
            counts = {topic: frames[topic] for _, topic in some}
            sure = {topic: frames[topic] for bag, topic in some if swapped(named(topic), bag) == camera}
            best = max(sure or counts, key=lambda topic: frames[topic])
            raise DataError(
                f"{len(sources)} topics could be the {camera} camera: {listed(counts, '')}; "
                f"name it with --topic, such as --topic {camera}={best}"
            )

    def missing(self, frames: Mapping[str, int]) -> str:
        """Return why there is no frame of the wanted cameras: the topics of images that there are."""
        if not any(frames.values()):
            return "no topic of images was found"
        best = max(frames, key=lambda topic: frames[topic])
        return f"{listed(frames)}; name one with --topic, such as --topic {self.wanted[0]}={best}"

    def _could_be(self, camera: str, topic: str, bag: str) -> bool:
        name = swapped(named(topic), bag)
        return name == camera or (name is None and camera == "center" and not is_no_picture(topic))

    def _is_given(self, topic: str) -> bool:
        return any(given in (_bare(topic), base_of(topic)) for _, given in self.given)


@lru_cache(maxsize=4096)
def named(topic: str) -> str | None:
    """Return the camera that a topic names: by a whole word, the first one; None if it names none or several."""
    if is_other(topic):
        return None
    for part in base_of(topic).split("/"):
        cameras = {WORDS[match[1]] for word in _words(part) if (match := NAMED.fullmatch(word))}
        if cameras:
            return cameras.pop() if len(cameras) == 1 else None
    return None


def is_other(topic: str) -> bool:
    """Return whether a topic says that it is another camera, such as one to the rear, or no picture."""
    return is_no_picture(topic) or any(word in ELSEWHERE for word in _words(topic))


def is_no_picture(topic: str) -> bool:
    """Return whether the images of a topic are no pictures, such as distances."""
    return topic.lower().endswith("/compresseddepth") or any(word in NO_PICTURE for word in _words(topic))


def swapped(camera: str | None, bag: str) -> str | None:
    """Exchange the left and the centre camera in the bags of one day."""
    return {"left": "center", "center": "left"}.get(camera or "", camera) if SWAPPED in bag else camera


def base_of(topic: str) -> str:
    """Return the topic of the camera, without the slash at its beginning and without what image_transport adds."""
    bare = _bare(topic)
    for transport in TRANSPORTS:
        if bare.lower().endswith(transport):
            return bare[: -len(transport)]
    return bare


def listed(frames: Mapping[str, int], intro: str = "its topics of images: ") -> str:
    """List topics with their numbers of frames, the most frequent first."""
    order = sorted(frames, key=lambda topic: (-frames[topic], topic))
    shown = [f"{topic[:200]} ({frames[topic]:,} frames)" for topic in order[:SHOWN]]
    more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    return intro + ", ".join(shown) + more


def read_topics(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return (camera, topic) of each `camera=topic` of --topic."""
    pairs = (text.partition("=") for text in texts)
    return tuple((camera, _bare(topic)) for camera, _, topic in pairs)


def _bare(topic: str) -> str:
    return topic.strip("/")


def _source(topic: str, bag: str) -> str:
    """Return what is equal for the topics of one camera in bags of different days and transports."""
    camera = named(topic)
    if camera is None or SWAPPED not in bag:
        return base_of(topic)
    other = {"left": "center", "center": "left"}.get(camera, camera)
    return base_of(topic).replace(camera, other)


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    """Split a name into words: at signs, at digits, and where a capital letter follows a small one."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text))
