"""Tells the files of MNIST and CIFAR-10 by their content, whatever they are called and however they are packed.

A file is known by the digest of its unpacked content: another gzip header, a zip of Kaggle, or the names that 7-Zip and
torchvision give do not change what it is. A file with an unknown content counts by its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from model.config.datasets import Registered, SourceFile
from model.data.files.clutter import LeftOut
from model.data.files.fingerprint import of_folder
from model.data.files.leaves import Leaf, bare_name, leaves
from model.data.files.published import hashed
from model.data.formats.stream import CutError
from model.errors import DataError
from model.meter import Meter

LARGEST_BYTES = 1 << 30  # of one file, unpacked; the largest of these data sets has 78 MB
BATCH = re.compile(r"(data_batch_[1-5]|test_batch)(\.bin)?")
AMAT = re.compile(r"binarized_mnist_(train|valid|test)\.amat")
IDX = re.compile(r"(train|t10k|test)[-_. ](images|labels)[-_. ]idx([13])[-_. ]ubyte(\.gz)?")


@dataclass(frozen=True)
class Content:
    """A file of a source, as far as it is known."""

    role: str  # the published name, unpacked
    place: Path  # the file on the disk that holds it
    inner: str  # its name in the archive; "" for the file itself
    label: str  # for messages
    bytes: int
    digests: Mapping[str, str]  # by algorithm
    published: SourceFile | None = None  # the published file whose content it is


@dataclass
class Contents:
    """The files of a data set that a source holds."""

    source: Path
    chosen: list[Content]
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def published(self) -> bool:
        """Whether each file is known by its content."""
        return all(one.published for one in self.chosen)

    def remarks(self) -> list[str]:
        """Return a line for each file whose content is not what its name says."""
        return [
            f"{one.label} has the content of {one.role} and is used as that"
            for one in self.chosen
            if one.published and role_of(bare_name(one.inner or one.place.name)) not in (None, one.role)
        ]

    def sources(self, stream: TextIO | None, of_source: Callable[[str], bool] | None = None) -> list[dict[str, Any]]:
        """Describe the files for the manifest. A published content is described as the published file itself.

        Args:
            stream: the stream for progress output.
            of_source: given if a folder of other files is described as a whole: selects its files by name.
        """
        if self.published:
            files = list(dict.fromkeys(one.published for one in self.chosen if one.published))
            return [described(file) for file in files]
        if of_source is not None and self.source.is_dir() and all(not one.inner for one in self.chosen):
            return [of_folder(self.source, of_source)]
        found = []
        for place in dict.fromkeys(one.place for one in self.chosen):
            size = place.stat().st_size
            found.append({"name": place.name, "bytes": size, "sha256": hashed(place, "sha256", stream)})
        return found

    def read(self) -> dict[str, tuple[str, bytes]]:
        """Return (label, content) of each file by its published name.

        Raises:
            DataError: a file is damaged, or was changed meanwhile.
        """
        found: dict[str, tuple[str, bytes]] = {}
        wanted = {(one.place, one.inner): one for one in self.chosen}
        for place in dict.fromkeys(one.place for one in self.chosen):
            some = {inner for at, inner in wanted if at == place}
            for leaf in leaves(place, lambda *_: True, LeftOut(), archives=some != {""}):
                one = wanted.get((leaf.place, leaf.inner))
                if one is not None and one.role not in found:
                    found[one.role] = (one.label, b"".join(_limited(leaf)))
                if len(found) == len(self.chosen):
                    return found
        missing = next((one.label for one in self.chosen if one.role not in found), None)
        if missing is not None:
            raise DataError(f"{missing} was removed meanwhile; run it again")
        return found


def described(file: SourceFile) -> dict[str, Any]:
    """Describe a published file as the manifest of a data set prepared from it does."""
    digest = {"sha256": file.sha256} if file.sha256 or not file.md5 else {"md5": file.md5}
    return {"name": file.name, "bytes": file.bytes, **digest}


def role_of(name: str) -> str | None:
    """Return the published name, unpacked, that a bare name stands for; None if it stands for none."""
    match = IDX.fullmatch(name)
    if match:
        return f"{'t10k' if match[1] == 'test' else match[1]}-{match[2]}-idx{match[3]}-ubyte"
    return name if BATCH.fullmatch(name) or AMAT.fullmatch(name) else None


def find_contents(
    entry: Registered,
    source: Path,
    groups: Sequence[Sequence[str]],
    *,
    unverified: bool,
    stream: TextIO | None = None,
) -> Contents:
    """Find the files of a data set in a folder or a file, first those on the disk, then those in archives.

    Args:
        entry: the data set.
        source: the folder or file.
        groups: the published names, unpacked, that make the data set complete, for each version that is published.
        unverified: whether files other than the published ones are accepted; they count by their names.
        stream: the stream for progress output.

    Raises:
        DataError: a file is missing, is damaged, or is not the published one and `unverified` is false.
    """
    search = _Search(entry, groups, stream)
    left_out = LeftOut()
    size = source.stat().st_size if source.is_file() else None
    meter = Meter(f"checking {source.name}", size, "B", stream=stream)
    try:
        for archives in (False, True):
            if search.complete() or (unverified and search.named()):
                break
            found = leaves(
                source, search.may_be, left_out, archives=archives, progress=meter.add, enough=search.complete
            )
            for leaf in found:
                search.take(leaf)
    finally:
        meter.close()
    return Contents(source, search.choose(source, unverified=unverified), left_out)


class _Search:
    """Collects candidates: by content where their digest is known, else by name."""

    def __init__(self, entry: Registered, groups: Sequence[Sequence[str]], stream: TextIO | None) -> None:
        self.entry, self.groups, self._stream = entry, groups, stream
        self._stored: dict[Path, SourceFile | None] = {}
        self.roles = {role for group in groups for role in group}
        self.known: dict[str, Content] = {}
        self.unknown: dict[str, list[Content]] = {}
        self.damage: list[str] = []
        self._published: dict[tuple[str, str], tuple[str, SourceFile]] = {}  # (algorithm, digest): role, file
        self._sizes: set[int] = set()
        for file in (*entry.files, *entry.also):
            for content in file.contents or (file,):
                self._sizes |= {content.bytes} if content.bytes else set()
                for algorithm, digest in (("sha256", content.sha256), ("md5", content.md5)):
                    if digest:
                        self._published[algorithm, digest] = (content.name.removesuffix(".gz"), file)
        self._algorithms = sorted({algorithm for algorithm, _ in self._published} | {"sha256"})

    def may_be(self, name: str, size: int | None) -> bool:
        """Return whether a file of this name and size may be one of those looked for."""
        return not self.complete() and (self._role(name) is not None or size in self._sizes)

    def take(self, leaf: Leaf) -> None:
        """Read a file and note what it is."""
        hashers = {name: hashlib.new(name, usedforsecurity=False) for name in self._algorithms}
        size, named = 0, self._role(leaf.name)
        try:
            for block in _limited(leaf):
                size += len(block)
                for hasher in hashers.values():
                    hasher.update(block)
        except CutError as error:
            self.damage.append(str(error))
            return
        digests = {name: hasher.hexdigest() for name, hasher in hashers.items()}
        role, file = next(
            (self._published[one] for one in digests.items() if one in self._published),
            self._as_stored(leaf) or (named, None),
        )
        if role is None:
            return
        content = Content(role, leaf.place, leaf.inner, leaf.label, size, digests, file)
        if file is not None:
            self.known.setdefault(role, content)
        else:
            self.unknown.setdefault(role, []).append(content)

    def complete(self) -> bool:
        """Return whether all files of one version are known by their content."""
        return any(all(role in self.known for role in group) for group in self.groups)

    def named(self) -> bool:
        """Return whether there is a file for each name of one version."""
        return any(all(role in self.known or role in self.unknown for role in group) for group in self.groups)

    def choose(self, source: Path, *, unverified: bool) -> list[Content]:
        """Return the files of one version.

        Raises:
            DataError: a file is missing, could be one of several, or is not the published one.
        """
        for group in self.groups:
            if all(role in self.known for role in group):
                return [self.known[role] for role in group]
        group = max(self.groups, key=lambda one: sum(role in self.known or role in self.unknown for role in one))
        chosen = []
        for role in group:
            some = [self.known[role]] if role in self.known else self.unknown.get(role, [])
            if not some:
                raise DataError(self._missing(source, role, group))
            if len({one.digests["sha256"] for one in some}) > 1 and unverified:
                names = " and ".join(str(self._where(source, one)) for one in some[:3])
                raise DataError(f"{role} could be {names}, which differ; give the folder of one of them with --source")
            chosen.append(some[0])
        other = next((one for one in chosen if one.published is None), None)
        if other is not None and not unverified:
            raise DataError(self._refusal(other))
        return chosen

    def _role(self, name: str) -> str | None:
        role = role_of(name)
        return role if role in self.roles else None

    def _as_stored(self, leaf: Leaf) -> tuple[str, SourceFile] | None:
        """Return what a file is by the published checksum of the file on the disk, as it is stored."""
        if leaf.place not in self._stored:
            size = leaf.place.stat().st_size
            files = [file for file in (*self.entry.files, *self.entry.also) if file.bytes == size and file.sha256]
            digest = hashed(leaf.place, "sha256", self._stream) if files else None
            self._stored[leaf.place] = next((file for file in files if file.sha256 == digest), None)
        file = self._stored[leaf.place]
        if file is None:
            return None
        role = self._role(leaf.name) if leaf.inner else file.name.removesuffix(".gz")
        return (role, file) if role in self.roles and role is not None else None

    def _missing(self, source: Path, role: str, group: Sequence[str]) -> str:
        if self.damage:
            return self.damage[0]
        if source.is_file() and not self.known and not self.unknown and len(group) > 1:
            names = ", ".join(file.name for file in self.entry.files)
            needed = "1 file" if len(self.entry.files) == 1 else f"{len(self.entry.files)} files"
            whole = f"{self.entry.name} needs {needed} ({names})"
            return f"{whole}; {source.name} holds none of them; give their folder with --source"
        return f"{source} has no {role}; pixel-orch data info {self.entry.name} lists the files to give"

    def _refusal(self, one: Content) -> str:
        """Return why a file is not the published one."""
        where = one.place if not one.inner else one.label
        for file in (*self.entry.files, *self.entry.also):
            for wanted in file.contents or (file,):
                if wanted.name.removesuffix(".gz") == one.role and (wanted.sha256 or wanted.md5):
                    if wanted.bytes not in (None, one.bytes):
                        return f"{where} has {one.bytes:,} bytes, the published one {wanted.bytes:,}; fetch it again"
                    algorithm = "sha256" if wanted.sha256 else "md5"
                    got, expected = one.digests[algorithm], wanted.sha256 or wanted.md5
                    return (
                        f"{where} is not the published file: its {algorithm} is {got}, not {expected}; fetch it again, "
                        "or pass --unverified to use it"
                    )
        return f"{where} is not one of the published files with a known checksum; pass --unverified to use it"

    @staticmethod
    def _where(source: Path, one: Content) -> str:
        place = one.place.relative_to(source) if source.is_dir() else Path(one.place.name)
        return f"{place}:{one.inner}" if one.inner else str(place)


def _limited(leaf: Leaf) -> Iterator[bytes]:
    size = 0
    for block in leaf.blocks:
        size += len(block)
        if size > LARGEST_BYTES:
            raise CutError(f"{leaf.label} has more than {LARGEST_BYTES:,} bytes, unpacked; it is not such a file")
        yield block
