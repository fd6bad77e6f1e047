"""Images as people have them: held sideways, beside what systems leave, in archives of other systems."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import image_files
from model.config.data_recipe import Options
from model.data import load
from model.data.driving import frames
from model.data.files.clutter import clutter, in_words
from model.data.manifest import Manifest
from model.data.prepare.prepare import prepare
from model.errors import DataError
from tests.support.data_files import Pixels, add, crops, png

ORIENTATION = 0x0112
SCENE = np.asarray(Image.fromarray(crops(1, 32, seed=3)[0]).resize((24, 32), Image.Resampling.BOX))  # 32 high, 24 wide
# How the sensor stores an upright scene in each orientation, as the EXIF standard words it: where row 0 and column 0
# of the stored pixels are in the scene.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: scene.swapaxes(0, 1)[::-1],
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: scene.swapaxes(0, 1)[:, ::-1],
}


def stored(scene: Pixels, turn: int, form: str, mode: str = "RGB") -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(STORED.get(turn, STORED[1])(scene)))
    picture = picture if picture.mode == mode else picture.convert(mode, dither=Image.Dither.NONE)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    out = io.BytesIO()
    words = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    picture.save(out, form, exif=exif, **words)
    return out.getvalue()


def own(source: Path, out: Path, size: int = 8, channels: int = 3) -> Manifest:
    return prepare("images", Options(source=str(source), out=out, size=size, channels=channels))[0]


def everything(out: Path) -> Pixels:
    data = load(str(out))
    return np.concatenate([data.split(split) for split in data.manifest.splits])  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("turn", [*STORED, 0, 9, 65535])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_in_each_orientation(turn: int, form: str, tmp_path: Path) -> None:
    for number, content in enumerate((stored(SCENE, 1, form), stored(SCENE, turn, form))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.png").write_bytes(content)  # the format is told by the content
        own(folder, tmp_path / f"out-{number}")
    plain, turned = everything(tmp_path / "out-0"), everything(tmp_path / "out-1")
    assert np.abs(plain.astype(int) - turned).max() <= (6 if form == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_images_and_those_with_alpha_are_turned_alike(mode: str, channels: int, tmp_path: Path) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    scene = SCENE if mode != "I;16" else SCENE[..., 0].astype(np.uint16) * 256
    for turn in (1, 6):
        folder = tmp_path / str(turn)
        folder.mkdir()
        (folder / "a.png").write_bytes(stored(scene, turn, form, mode))
        own(folder, tmp_path / f"out-{turn}", channels=channels)
    assert np.abs(everything(tmp_path / "out-1").astype(int) - everything(tmp_path / "out-6")).max() <= 1


def test_what_does_not_turn_keeps_its_id_and_its_manifest_says_nothing_new(tmp_path: Path) -> None:
    for name, turn in (("plain", None), ("one", 1), ("six", 6)):
        folder = tmp_path / name / "in"
        folder.mkdir(parents=True)
        for number in range(3):
            content = png(SCENE) if turn is None else stored(SCENE, turn, "PNG")
            (folder / f"{number}.png").write_bytes(content)
        own(folder, tmp_path / name / "out")
    six, one = everything(tmp_path / "six" / "out"), everything(tmp_path / "one" / "out")
    assert np.array_equal(six, one)
    made = prepare("images", Options(source=str(tmp_path / "plain" / "in"), out=tmp_path / "plain" / "out", size=8))[0]
    assert "orientation" not in str(made.recipe)


def test_damaged_exif_data_do_not_cost_the_image(tmp_path: Path) -> None:
    content = stored(SCENE, 6, "JPEG")
    at = content.index(b"Exif\0\0") + 6
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(content[:at] + b"\xff" * 20 + content[at + 20 :])
    assert own(tmp_path / "in", tmp_path / "out").splits == {"train": 1}


def test_an_image_that_is_completed_and_a_frame_of_a_folder_are_upright(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(stored(SCENE, 6, "PNG"))
    got = image_files.read(tmp_path / "a.png", (3, 32, 24), K=256)
    assert np.array_equal(got.transpose(1, 2, 0), SCENE)
    recipe = frames.Recipe(8)
    for form, most in (("JPEG", 8), ("PNG", 0)):
        upright, turned = (frames.from_compressed(memoryview(stored(SCENE, turn, form)), recipe) for turn in (1, 8))
        assert np.abs(upright.astype(int) - turned).max() <= most


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/._b.jpg", "._*"),
        ("__MACOSX/a/._b.jpg", "__MACOSX"),
        ("a/.ipynb_checkpoints/b-checkpoint.jpg", ".ipynb_checkpoints"),
        ("a/.DS_Store", ".DS_Store"),
        ("Thumbs.db", "Thumbs.db"),
        ("a/desktop.ini", "desktop.ini"),
        ("a/@eaDir/b.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir"),
        ("#recycle/b.jpg", "#recycle"),
        ("$RECYCLE.BIN/S-1-5/b.jpg", "$RECYCLE.BIN"),
        ("System Volume Information/b.jpg", "System Volume Information"),
        (".Trash-1000/files/b.jpg", ".Trash"),
        (".Trashes/501/b.jpg", ".Trash"),
        (".trashed-1700000000-b.jpg", ".Trash"),
        (".thumbnails/b.jpg", ".thumbnails"),
        (".git/b.jpg", ".git"),
        ("a/.b.jpg.x7Yz", "hidden"),
        ("lost+found/b.jpg", "lost+found"),
        ("b.jpg", None),
        ("./a/b.jpg", None),
        ("a_._b/b.jpg", None),
        ("a/_b.jpg", None),
        ("MACOSX/b.jpg", None),
    ],
)
def test_what_is_no_data(name: str, kind: str | None) -> None:
    assert clutter(name) == kind


LEFT = {
    "._p03.png": b"\x00\x05\x16\x07" + bytes(120),
    ".ipynb_checkpoints/p03-checkpoint.png": b"",
    "__MACOSX/._p.png": b"",
    "@eaDir/p03.png/T.png": b"",
    ".DS_Store": b"x",
    "sub/Thumbs.db": b"x",
    ".Trash-0/p03.png": b"",
}


def written(kind: str, place: Path, names: dict[str, bytes]) -> Path:
    """A folder or archive of such files."""
    if kind == "folder":
        for name, content in names.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return place
    path = place.with_name(f"{place.name}.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in names.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as tar:
            for name, content in names.items():
                add(tar, f"./{name}", content)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz"])
def test_what_is_no_data_is_left_out_and_counted_in_folders_and_archives(kind: str, tmp_path: Path) -> None:
    images = {f"p{number:02d}.png": png(image) for number, image in enumerate(crops(24, 8))}
    scene = next(iter(images.values()))
    mixed = {**{name: content or scene for name, content in LEFT.items()}, **images}
    with_it = own(written(kind, tmp_path / "in", mixed), tmp_path / "a")
    clean = tmp_path / "clean" / "in"
    clean.parent.mkdir()
    without = own(written(kind, clean, images), tmp_path / "b")
    assert with_it.left_out == dict.fromkeys(
        ("._*", ".ipynb_checkpoints", "__MACOSX", "@eaDir", ".DS_Store", "Thumbs.db", ".Trash"), 1
    )
    assert with_it.splits == without.splits == {"train": 22, "valid": 1, "test": 1}
    assert np.array_equal(everything(tmp_path / "a"), everything(tmp_path / "b"))
    if kind == "folder":
        assert with_it.id == without.id
        (tmp_path / "in" / ".DS_Store").write_bytes(b"opened again in the Finder")
        assert not prepare("images", Options(source=str(tmp_path / "in"), out=tmp_path / "a", size=8))[2]
    says = in_words(with_it.left_out)
    assert says.startswith("7 files are no data and were left out: ")
    assert "and 1 more kinds" in says


def test_a_folder_of_clutter_alone_has_no_images(tmp_path: Path) -> None:
    written("folder", tmp_path / "in", LEFT)
    with pytest.raises(DataError, match=r"in has no images"):
        own(tmp_path / "in", tmp_path / "out")


def test_a_source_in_a_hidden_folder_is_data(tmp_path: Path) -> None:
    source = written("folder", tmp_path / ".cache" / "in", {"a.png": png(SCENE)})
    assert own(source, tmp_path / "out").left_out == {}


def test_an_image_that_an_archive_holds_twice_is_taken_once(tmp_path: Path) -> None:
    first, second = (png(image) for image in crops(2, 8))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("a.png", first), ("b.png", second), ("./a.png", first)):
            add(tar, name, content)
    made = own(tmp_path / "a.tar", tmp_path / "out")
    assert made.splits == {"train": 2}
    assert made.notes == ["a.tar: 1 images had the name of another image before them; left out"]


def test_a_tar_of_macos_has_attributes_of_any_bytes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("._a.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.pax_headers = {"SCHILY.xattr.com.apple.quarantine": "\udcff\udcfe0081", "path": name}
            content = png(SCENE) if name == "a.png" else b"\x00\x05\x16\x07"
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = (tmp_path / "a.tar").read_bytes()
    assert b"SCHILY" in content
    made = own(tmp_path / "a.tar", tmp_path / "out")
    assert (made.splits, made.left_out) == ({"train": 1}, {"._*": 1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), r"a.zip is a 7z archive, which is not read; unpack it \(7z x\)"),
        (b"Rar!\x1a\x07\x00" + bytes(600), "is a RAR archive"),
        (b"BZh9" + bytes(600), "is compressed by bzip2"),
        (b"PK\x03\x04" + bytes(600), "a.zip is damaged or is not a zip file"),
    ],
)
def test_another_archive_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=says):
        own(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_zip_names_the_image(tmp_path: Path) -> None:
    path = written("zip", tmp_path / "in", {f"{number}.png": png(image) for number, image in enumerate(crops(3, 16))})
    content = bytearray(path.read_bytes())
    content[content.index(b"1.png") + 60] ^= 8
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"in.zip: byte \d+: 1.png is damaged"):
        own(path, tmp_path / "out")


def test_images_of_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    """A telephone leaves HEIC beside JPEG: without a word half of the pictures would be missing."""
    for name in ("a.png", "b.HEIC", "c.heic", "d.avif", "notes.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(crops(1, 8)[0]))
    (note,) = own(tmp_path / "in", tmp_path / "out").notes
    assert note == ("images of formats that are not read, left out: .heic (2), .avif (1); convert them to PNG")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], r"has no images \(.*\); check the path"),
        (["a.heic"], r"has no images \(.*\), but \.heic \(1\); convert them to PNG"),
        (["a.zip", "b.zip", "c.txt"], r"has no images \(.*\), but \.zip \(2\), \.txt \(1\); unpack them"),
        (["a"], r"has no images \(.*\), but no suffix \(1\); check the path"),
    ],
)
def test_a_source_without_images_says_what_it_has(names: list[str], says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(DataError, match=says):
        own(tmp_path / "in.zip", tmp_path / "out")


def test_an_image_or_a_text_in_the_place_of_an_archive_is_not_a_tar_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG" + bytes(80))
    with pytest.raises(DataError, match=r"a\.png is no tar, tar\.gz or zip; give an archive or a folder"):
        own(tmp_path / "a.png", tmp_path / "out")


def test_a_zip_of_windows_with_backslashes_has_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("train\\a.png", "valid\\b.png", "test\\c.png"):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            archive.writestr(info, png(crops(1, 8)[0]))
    splits = own(tmp_path / "in.zip", tmp_path / "out").splits
    assert splits == {"train": 1, "valid": 1, "test": 1}
