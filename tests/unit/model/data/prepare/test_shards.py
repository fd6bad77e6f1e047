"""Shards and manifest: whole or not there, gone on with after a kill, the same bytes in the end; what `data` prints."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from model.__main__ import main
from model.config import REGISTRY
from model.config.data_recipe import Options
from model.data import manifest as manifests
from model.data.digest import sha256_of
from model.data.files.disk import space
from model.data.manifest import Column, Image, Manifest, Shard
from model.data.prepare import shard_writer as writers
from model.data.prepare.prepare import prepare
from model.data.prepare.shard_writer import JOURNAL, ShardWriter, images_per_shard
from model.data.prepare.verify import verify
from model.errors import DataError
from model.meter import Meter, amount
from tests.support.data_files import crops, write_amat, write_png_tar

IMAGE = Image(8, 8, 3, 256)
COLUMNS = (Column("angle", "<f4", "rad"), Column("label", "|u1"))
SHARD_BYTES = 10 * IMAGE.bytes  # 8 images


def blocks() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """45 images in unequal blocks of two splits."""
    images = crops(45, 8)
    rows = np.zeros(45, [("angle", "<f4"), ("label", "|u1")])
    rows["angle"], rows["label"] = np.linspace(-1, 1, 45), np.arange(45)
    rows["angle"][3] = np.nan
    cuts = [0, 5, 6, 20, 21, 30, 45]
    for number, (a, b) in enumerate(itertools.pairwise(cuts)):
        yield ("valid" if number in (1, 3) else "train"), images[a:b], rows[a:b]


def writer(folder: Path, plan: object = 1) -> ShardWriter:
    return ShardWriter(folder, IMAGE, COLUMNS, plan={"plan": plan}, shard_bytes=SHARD_BYTES)


def fill(folder: Path, *, stop_after: int = 99) -> Manifest | None:
    """Write all blocks, without those that are done; end before the manifest after so many blocks."""
    out = writer(folder)
    skip = out.done
    for number, (split, images, rows) in enumerate(blocks()):
        if number == stop_after:
            return None
        drop = min(len(images), skip[split])
        skip[split] -= drop
        out.add(split, images[drop:], rows[drop:])

    def manifest(shards: list[Shard], columns: list[Column]) -> Manifest:
        counts = {split: count for split, count in out.done.items() if count}
        return Manifest("images", 1, IMAGE, counts, {"asked": {}}, [], shards, columns)

    return out.finish(manifest)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "whole"
    assert fill(folder) is not None
    return folder


def test_a_shard_is_a_plain_npy_that_numpy_reads(whole: Path) -> None:
    made = verify(whole)
    assert made.splits == {"train": 43, "valid": 2}
    assert [shard.images for shard in made.of_split("train")] == [8, 8, 8, 8, 8, 3]
    train = np.concatenate([np.load(whole / shard.file) for shard in made.of_split("train")])
    assert np.array_equal(train, np.concatenate([images for split, images, _ in blocks() if split == "train"]))
    assert np.load(whole / "shard-00000.columns.npy")["label"].tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]


def test_the_manifest_has_the_spread_of_each_column_over_the_training_images(whole: Path) -> None:
    angle = manifests.read(whole).columns[0]
    train = np.concatenate([rows["angle"] for split, _, rows in blocks() if split == "train"]).astype(np.float64)
    assert angle.mean == pytest.approx(np.nanmean(train))
    assert angle.std == pytest.approx(np.nanstd(train))
    assert (angle.missing, angle.unit) == (1, "rad")


@pytest.mark.parametrize("stop", range(6))
def test_given_up_after_any_block_it_goes_on_and_ends_with_the_same_bytes(
    stop: int, whole: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "out", stop_after=stop)
    with pytest.raises(DataError, match="is not a prepared data set"):
        manifests.read(tmp_path / "out")
    fill(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("damage", ["shard cut", "shard gone", "journal cut", "journal torn", "leftovers"])
def test_what_a_kill_leaves_half_is_not_taken_for_whole(damage: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(folder, stop_after=5)
    journal = folder / JOURNAL
    if damage == "shard cut":
        (folder / "shard-00001.npy").write_bytes((folder / "shard-00001.npy").read_bytes()[:-1])
    elif damage == "shard gone":
        (folder / "shard-00000.npy").unlink()
    elif damage == "journal cut":
        journal.write_text(journal.read_text()[:-20])
    elif damage == "journal torn":
        journal.write_text("")
    else:
        (folder / ".train-1.tmp").write_bytes(b"half")
        (folder / "shard-00077.npy").write_bytes(b"written, but not noted")
    fill(folder)
    assert contents(folder) == contents(whole)


def test_another_plan_begins_anew(tmp_path: Path) -> None:
    fill(tmp_path / "out", stop_after=4)
    assert writer(tmp_path / "out").done["train"] > 0
    assert writer(tmp_path / "out", plan=2).done == {"train": 0, "valid": 0, "test": 0}


def test_shards_of_somebody_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.npy").write_bytes(b"precious")
    with pytest.raises(DataError, match="holds shards without a journal; give another --out"):
        writer(tmp_path)
    assert (tmp_path / "shard-00000.npy").read_bytes() == b"precious"


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    put = writers.OpenShard.write

    def full(self: writers.OpenShard, content: bytes) -> None:
        nonlocal written
        written += len(content)
        if written > 2 * SHARD_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, content)

    monkeypatch.setattr(writers.OpenShard, "write", full)
    with pytest.raises(DataError) as caught:
        fill(tmp_path / "out")
    assert str(caught.value) == (
        f"cannot write to {tmp_path / 'out'}: the disk is full; 2 shards are kept, run it again to continue"
    )
    monkeypatch.undo()
    fill(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_the_disk_is_asked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 115.0 kB and 200.0 MB to spare, its disk has 1.0 kB free; give"):
        prepare("digits", Options(out=tmp_path / "out"))


def test_a_disk_with_room_for_what_is_missing_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("digits", Options(out=tmp_path / "whole", shard_bytes=30_000))
    out = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (out / "manifest.json").unlink()
    made = manifests.read(tmp_path / "whole")
    opened = {"name": "digits", "version": made.version, "recipe": made.recipe, "sources": []}
    ShardWriter(tmp_path / "plan", made.image, tuple(made.columns), plan=opened, shard_bytes=30_000)
    lines = [json.dumps(asdict(shard)) for shard in made.shards[:-1]]
    plan = (tmp_path / "plan" / JOURNAL).read_text().strip()
    (out / JOURNAL).write_text("\n".join([plan, *lines]) + "\n")
    (out / made.shards[-1].file).unlink()
    left = made.shards[-1].images * made.image.bytes
    usage = shutil.disk_usage(tmp_path)
    for free, enough in ((200_000_000 + left - 2000, False), (200_000_000 + left, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=free))
        if enough:
            assert prepare("digits", Options(out=out, shard_bytes=30_000))[0] == made
        else:
            with pytest.raises(DataError, match=r"needs [\d.]+ kB more and 200.0 MB to spare, its disk has 200.0 MB"):
                prepare("digits", Options(out=out, shard_bytes=30_000))


def test_a_run_that_is_killed_right_after_the_manifest_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("digits", Options(out=out))
    whole = contents(out)
    (out / JOURNAL).write_text("{}\n")
    assert not prepare("digits", Options(out=out))[2]
    assert contents(out) == whole


def test_the_room_of_what_a_drive_has_left_half_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=200_000_000 + 1000))
    space(tmp_path / "out", 1000)
    with pytest.raises(DataError, match=r"needs 5.0 kB and 200.0 MB to spare, its disk has 200.0 MB free"):
        space(tmp_path / "out", 5000)
    for name in (".parts/000/000/frames.u8", "shard-00000.npy", "shard-00000.columns.npy"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(bytes(2000))
    space(tmp_path / "out", 5000)
    with pytest.raises(DataError, match=r"needs 1.1 kB more and 200.0 MB to spare"):
        space(tmp_path / "out", 5100)


def test_a_column_that_never_changes_has_the_spread_1(tmp_path: Path) -> None:
    names = ("nought", "tenth", "large", "slow", "count")
    columns = tuple(Column(name, "<f8" if name != "count" else "<i8") for name in names)
    rows = np.zeros(10, [(column.name, column.dtype) for column in columns])
    rows["tenth"], rows["large"], rows["slow"] = 0.3, 37.4, 37.4 + 1e-5 * np.arange(10)
    rows["count"] = 10**18 + 10**8 * np.arange(10)
    out = ShardWriter(tmp_path, IMAGE, columns, plan={})
    out.add("train", crops(10, 8), rows)
    made = out.finish(lambda shards, found: Manifest("x", 1, IMAGE, {"train": 10}, {}, [], shards, found))
    spread = {column.name: column.std for column in made.columns}
    assert rows["tenth"].std() > 0  # by rounding
    assert (spread["nought"], spread["tenth"], spread["large"]) == (1.0, 1.0, 1.0)
    assert spread["slow"] == pytest.approx(rows["slow"].std())
    assert spread["count"] == pytest.approx(rows["count"].astype(float).std())


def test_a_level_that_cannot_be_is_refused(tmp_path: Path) -> None:
    out = ShardWriter(tmp_path, Image(8, 8, 3, 16), plan={})
    with pytest.raises(DataError, match="an image has level 200, which is outside 0 to 15"):
        out.add("train", np.full((1, 8, 8, 3), 200, np.uint8))


def test_shards_have_about_100_mb() -> None:
    assert images_per_shard(Image(64, 64, 3, 256)) == 8192
    assert images_per_shard(Image(32, 32, 3, 256)) == 32768
    assert images_per_shard(Image(2000, 2000, 3, 256), 1000) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('"train": 43', '"train": 44'), "does not match its own digest"),
        (lambda text: text.replace("shard-00000", "../../etc/a"), "does not match its own digest"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9, this version reads 1; update"),
        (lambda text: text[:-40], "cannot read"),
        (lambda text: "[]", "does not match"),
        (lambda text: "{}", "does not match"),
    ],
)
def test_a_damaged_manifest_is_refused(change: object, says: str, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "out")
    path = folder / "manifest.json"
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(DataError, match=says):
        verify(folder)


@pytest.mark.parametrize("name", ["shard-00001.npy", "shard-00002.columns.npy"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_verify_finds_one_flipped_bit(name: str, place: int, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "out")
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        verify(folder)


def test_verify_finds_a_missing_or_short_shard(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "out")
    content = (folder / "shard-00001.npy").read_bytes()
    (folder / "shard-00001.npy").write_bytes(content[:-10])
    with pytest.raises(DataError, match=r"shard-00001.npy has 1,654 bytes instead of 1,664"):
        verify(folder)
    (folder / "shard-00001.npy").unlink()
    with pytest.raises(DataError, match=r"cannot read .*shard-00001.npy: No such file"):
        verify(folder)


def call(*words: str | Path) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXEL_ORCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("PIXEL_ORCH_PROG", raising=False)
    return tmp_path / "data"


def test_a_second_run_does_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "prepare", "digits") == 0
    assert "digits: 1,257 train, 180 valid, 360 test images in" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (root / "digits").iterdir()}
    assert call("data", "prepare", "digits") == 0
    assert "(was prepared already)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (root / "digits").iterdir()} == before
    assert call("data", "verify", "digits") == 0
    assert "3 shards of digits match the manifest" in capsys.readouterr().out


def test_another_recipe_does_not_replace_what_is_there(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = write_png_tar(tmp_path / "mine.tar", crops(20, 8), "mine")
    assert call("data", "prepare", "images", "--source", tar, "--size", "8") == 0
    assert call("data", "prepare", "images", "--source", tar, "--size", "4") == 2
    assert "holds images prepared with other settings; remove it or give another --out" in capsys.readouterr().err


def pictures(folder: Path, numbers: range, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Pictures.fromarray(crops(1, 8, seed=seed + number)[0]).save(folder / f"{number:03d}.png")
    return folder


def own(source: Path, out: Path) -> tuple[Manifest, bool]:
    made, _, done = prepare("images", Options(source=str(source), out=out, size=8, shard_bytes=8 * IMAGE.bytes))
    return made, done


def interrupt(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare three shards, and no more."""
    note = ShardWriter.commit

    def dies(self: ShardWriter, shard: Shard) -> None:
        note(self, shard)
        if len(self.shards) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "commit", dies)
        patch.setattr("model.data.formats.pictures.BLOCK_BYTES", 4 * IMAGE.bytes)
        with pytest.raises(KeyboardInterrupt):
            own(source, out)
    assert len(list(out.glob("shard-*"))) == 3


def test_a_folder_that_changed_while_it_was_interrupted_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "in", range(10, 60))
    interrupt(source, tmp_path / "out", monkeypatch)
    pictures(source, range(10))  # they come before all others
    made, _ = own(source, tmp_path / "out")
    assert (own(source, tmp_path / "fresh")[0], sum(made.splits.values())) == (made, 60)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_folder_that_was_moved_meanwhile_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "in", range(60))
    interrupt(source, tmp_path / "out", monkeypatch)
    before = {path: path.stat().st_ino for path in (tmp_path / "out").glob("shard-*")}
    moved = source.rename(tmp_path / "elsewhere")
    (moved / "readme.txt").write_text("no image")
    assert own(moved, tmp_path / "out")[1]
    assert {path: path.stat().st_ino for path in before} == before
    again = moved.rename(tmp_path / "back")
    assert not own(again, tmp_path / "out")[1]


@pytest.mark.parametrize("change", ["added", "removed", "touched", "other", "renamed"])
def test_other_images_are_not_taken_for_those_that_are_there(change: str, tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", range(20))
    own(source, tmp_path / "out")
    if change == "added":
        pictures(source, range(20, 21))
    elif change == "removed":
        (source / "003.png").unlink()
    elif change == "touched":
        os.utime(source / "003.png", ns=(1, 1))
    elif change == "renamed":
        (source / "003.png").rename(source / "0003.png")
    else:
        source = write_png_tar(tmp_path / "in.tar", crops(20, 8), "in")
    says = f"{tmp_path}/out holds images prepared from other files than {source}; remove it or give another --out"
    with pytest.raises(DataError, match=re.escape(says)):
        own(source, tmp_path / "out")
    assert verify(tmp_path / "out").splits["train"] == 18


def test_when_images_were_changed_last_does_not_change_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first, _ = own(pictures(tmp_path / "a" / "in", range(20)), tmp_path / "x")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    second, _ = own(tmp_path / "b" / "in", tmp_path / "y")
    assert first != second
    assert first.id == second.id


def test_a_tar_is_known_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    mine = write_png_tar(tmp_path / "mine.tar", crops(20, 8), "in")
    own(mine, tmp_path / "out")
    assert not own(mine.rename(tmp_path / "moved.tar"), tmp_path / "out")[1]
    other = tmp_path / "other.tar"
    content = bytearray((tmp_path / "moved.tar").read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    with pytest.raises(DataError, match="holds images prepared from other files than"):
        own(other, tmp_path / "out")
    with pytest.raises(DataError, match=r"gone\.tar does not exist; check --source"):
        own(tmp_path / "gone.tar", tmp_path / "out")


def test_published_files_are_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, folder = REGISTRY["mnist-static"], write_amat(tmp_path / "in")
    files = [
        replace(file, bytes=(folder / file.name).stat().st_size, sha256=sha256_of(folder / file.name))
        for file in entry.files
    ]
    monkeypatch.setattr("model.config.data_recipe.REGISTRY", {entry.name: replace(entry, files=tuple(files))})
    options = Options(source=str(folder), out=tmp_path / "out")
    assert prepare("mnist-static", options)[2]
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for source in (str(tmp_path / "copy"), "https://mirror.example.com/x", None, str(tmp_path / "gone")):
        assert not prepare("mnist-static", replace(options, source=source))[2]
    write_amat(tmp_path / "other", (41, 10, 10))
    with pytest.raises(DataError, match="holds mnist-static prepared from other files than"):
        prepare("mnist-static", replace(options, source=str(tmp_path / "other"), unverified=True))


def test_the_list_has_every_name_whole_in_80_columns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("data", "prepare", "digits")
    capsys.readouterr()
    assert call("data", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    names = {line.split()[0] for line in lines[1:-2]}
    assert {"digits", "mnist-static", "cifar10", "imagenet-small-32", "imagenet-box-64", "udacity-2-1"} <= names
    assert next(line for line in lines if line.startswith("digits")).endswith("yes (115.0 kB)")
    assert call("data", "list", "-o", "json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["mnist-static"]["train"], rows["udacity-2-2"]["download_bytes"]) == (50_000, 131_579_367_122)


def test_info_says_files_checksums_terms_and_how_people_get_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "info", "udacity-2-1") == 0
    text = capsys.readouterr().out
    for word in ("33a10f7835068eeb29b2a3274c216e7d", "magnet:?xt=urn:btih:6011d0e9", "MIT", "HTTP links are dead"):
        assert word in text
    call("data", "prepare", "digits")
    capsys.readouterr()
    assert call("data", "info", "digits", "-o", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["manifest"]["splits"] == {"train": 1257, "valid": 180, "test": 360}
    assert call("data", "info", "nosuch") == 2
    assert "no data set 'nosuch'" in capsys.readouterr().err


def test_what_is_built_in_is_called_so_everywhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "info", "digits") == 0
    assert "prepared   built in" in capsys.readouterr().out
    assert call("data", "verify", "digits") == 0
    assert "built in" in capsys.readouterr().out
    assert call("data", "preview", "digits", "--out", tmp_path / "a.png", "--count", "1") == 0
    said = capsys.readouterr().out
    assert "of digits (built in)" in said
    assert str(root) not in said, "there is no such folder"


def test_a_preview_is_a_picture_with_what_is_known_of_each_image(whole: Path, tmp_path: Path) -> None:
    assert call("data", "preview", whole, "--out", tmp_path / "a.png", "--count", "4") == 0
    with Pictures.open(tmp_path / "a.png") as picture:
        assert picture.mode == "RGB"
        assert picture.size[0] > 2 * 128
    assert call("data", "preview", whole, "--out", tmp_path / "a.png", "--split", "test") == 2
    assert call("data", "preview", whole, "--out", tmp_path / "no" / "a.png") == 2


@pytest.mark.parametrize(
    "words",
    [("prepare",), ("prepare", "digits", "--levels", "1"), ("prepare", "x", "--size", "3"), ("nosuch",), (),
     ("prepare", "udacity", "--min-speed", "nan"), ("preview", "digits"), ("verify", "/nowhere"), ("list", "--x")],
)  # fmt: skip
def test_bad_words_are_one_line_and_exit_code_2(
    words: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", *words) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["prepare", "list", "info", "verify", "preview"])
def test_each_help_has_an_example_and_fits_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call("data", command, "--help") == 0
    text = capsys.readouterr().out
    assert f"data {command}" in text.split("example:")[1]
    assert max(len(line) for line in text.splitlines()) <= 80


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_says_how_much_how_fast_and_how_long_still() -> None:
    now = 0.0
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        now = 0.0
        meter = Meter("preparing x", 1000, stream=stream, clock=lambda: now)  # noqa: B023
        meter.skip(200)
        for _ in range(4):
            now += 5
            meter.add(100)
        assert meter.line(now) == "preparing x: 600 images of 1,000 images (60%)  20 images/s  0:00:20 left"
        meter.close()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert pipe.getvalue().count("\n") == 2  # ten seconds apart
    assert [amount(size) for size in (1, 1500, 2e6, 223e9)] == ["1 B", "1.5 kB", "2.0 MB", "223.0 GB"]
