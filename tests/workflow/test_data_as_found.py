"""Folders, archives and arrays as people and systems make them: each is read as it should be, or refused by name.

Each case states the number of images by split and class, and every sentence on what was left out. The cases of folders
are packed into archives, too: an archive holds what unpacking it would give.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pytest
from PIL import Image

from fcnet.data import sources
from fcnet.runtime.errors import UserError
from tests.helpers import image_bytes
from tests.unit.data.sources.image_trees import zip_link

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources import Source

Form: TypeAlias = Literal["folder", "tar", "zip"]
Counts: TypeAlias = dict[str, dict[str, int]]

ALL_FORMS: tuple[Form, ...] = ("folder", "tar", "zip")


@dataclass(frozen=True)
class Link:
    """A symbolic link, or a hard link."""

    target: str
    hard: bool = False


Entry: TypeAlias = "bytes | Link | None"
"""The content of a file, a link, or None for an empty folder."""


@dataclass(frozen=True)
class Case:
    """Data as found.

    Attributes:
        name: what is special about it.
        entries: the entries of the folder or archive, by name.
        counts: the number of images that are used, by split and class.
        notes: all sentences on what is not used, with semicolons between them.
        error: instead, the error, with PATH for the path of the data.
        forms: the forms in which the data is tried.
    """

    name: str
    entries: dict[str, Entry]
    counts: Counts = field(default_factory=dict)
    notes: str = ""
    error: str = ""
    forms: tuple[Form, ...] = ALL_FORMS


def png(level: int = 0, size: tuple[int, int] = (3, 2)) -> bytes:
    return image_bytes(Image.new("RGB", size, (level, 0, 0)))


PNG = png()
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
GIF = io.BytesIO()
Image.new("P", (3, 2), 1).save(GIF, "GIF", save_all=True, append_images=[Image.new("P", (3, 2), n) for n in (2, 3)])
SPLIT: dict[str, Entry] = {
    "train/cat/1.png": PNG, "train/cat/2.png": PNG, "train/dog/1.png": PNG, "test/cat/3.png": PNG, "test/dog/3.png": PNG
}  # fmt: skip
SPLIT_COUNTS: Counts = {"train": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}}
FLAT: dict[str, Entry] = {f"{name}/{number}.png": PNG for name in ("cat", "dog") for number in range(5)}
FLAT_COUNTS: Counts = {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}}
CAFE, CAFE_ON_A_MAC = "caf\u00e9", "cafe\u0301"


def under(folder: str, entries: dict[str, Entry]) -> dict[str, Entry]:
    return {f"{folder}/{name}": entry for name, entry in entries.items()}


CASES = [
    Case("splits", SPLIT, SPLIT_COUNTS),
    Case("class folders", FLAT, FLAT_COUNTS),
    Case("thumbnails of Windows",
        {**FLAT, "cat/Thumbs.db": b"x", "desktop.ini": b"x", "dog/ehthumbs.db": b"x"},
        FLAT_COUNTS),
    Case("folders and files of macOS",
        {**FLAT, ".DS_Store": b"x", "cat/._1.png": b"x", "__MACOSX/cat/._1.png": b"x", "__MACOSX/cat/2.png": PNG,
         "Icon\r": b"x"},
        FLAT_COUNTS),
    Case("thumbnails of network drives",
        {**FLAT, "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png": PNG, "@eaDir/x.png": PNG, "cat/.@__thumb/1.png": PNG,
         "#recycle/cat/0.png": PNG},
        FLAT_COUNTS),
    Case("folders of drives and notebooks",
        {**FLAT, "$RECYCLE.BIN/x.png": PNG, "System Volume Information/x.png": PNG, "lost+found": None,
         ".ipynb_checkpoints/1-checkpoint.png": PNG, "cat/.ipynb_checkpoints/1-checkpoint.png": PNG},
        FLAT_COUNTS),
    Case("suffixes of JPEG",
        {**FLAT, "cat/5.jfif": image_bytes(Image.new("RGB", (3, 2)), "JPEG"), "dog/5.JPE": PNG, "dog/6.JPG": PNG,
         "cat/6.JFIF": PNG},
        {"train": {"cat": 6, "dog": 6}, "test": {"cat": 1, "dog": 1}}),
    Case("other files beside images",
        {**FLAT, "README.md": b"x", "cat/1.txt": b"x", "cat/2.heic": b"x", "dog/labels.csv": b"x", "dog/0.zip": b"PK"},
        FLAT_COUNTS,
        "not used: 5 files without an image suffix (README.md, cat/1.txt, cat/2.heic, …)"),
    Case("files, folders and images beside the splits",
        {**SPLIT, "logo.png": PNG, "README.md": b"x", "extra/cat/1.png": PNG, "docs/a.txt": b"x", "train/a.csv": b"x"},
        SPLIT_COUNTS,
        "not used: 2 files without an image suffix (README.md, train/a.csv), "
         "1 image outside the class folders (logo.png), 2 folders beside the splits (docs, extra)"),
    *(
        Case(f"a validation split named {name}",
            {**SPLIT, f"{name}/cat/4.png": PNG, f"{name}/dog/4.png": PNG, f"{name}/dog/5.png": PNG},
            {**SPLIT_COUNTS, "validation": {"cat": 1, "dog": 2}})
        for name in ("val", "valid", "validation", "Val", "VALIDATION")
    ),
    Case("splits in capitals", {name.capitalize(): entry for name, entry in SPLIT.items()}, SPLIT_COUNTS),
    Case("two validation splits",
        {**SPLIT, "val/cat/4.png": PNG, "validation/cat/4.png": PNG},
        error="PATH must have one validation split, found the folders val and validation"),
    Case("training and validation without test, as ImageNet",
        {name.replace("test", "val"): entry for name, entry in SPLIT.items()},
        error="expected train/CLASS/… and test/CLASS/… in PATH, found train, val; "
        "rename val to test, and a share of train is held out for validation"),
    Case("classes named valid and invalid",
        {name.replace("cat", "valid").replace("dog", "invalid"): entry for name, entry in FLAT.items()},
        {"train": {"invalid": 4, "valid": 4}, "test": {"invalid": 1, "valid": 1}}),
    Case("an empty validation split",
        {**SPLIT, "val": None},
        SPLIT_COUNTS,
        "not used: 1 split without an image (val)"),
    Case("a class without test images",
        {**SPLIT, "train/cow/1.png": PNG, "test/cow": None},
        {**SPLIT_COUNTS, "train": {"cat": 2, "cow": 1, "dog": 1}},
        "1 of 3 classes has no test image: cow"),
    Case("a class without validation images",
        {**SPLIT, "val/cat/4.png": PNG},
        {**SPLIT_COUNTS, "validation": {"cat": 1}},
        "1 of 2 classes has no validation image: dog"),
    Case("a class in test alone",
        {**SPLIT, "test/cow/1.png": PNG, "train/cow": None},
        error="every class in PATH must have a training image, found none of cow"),
    Case("empty class folders",
        {**SPLIT, "train/cow": None, "train/notes/a.txt": b"x", "test/cow": None},
        SPLIT_COUNTS,
        "not used: 1 file without an image suffix (train/notes/a.txt), "
         "3 class folders without an image (test/cow, train/cow, train/notes)"),
    Case("an empty class folder without splits",
        {**FLAT, "cow": None},
        FLAT_COUNTS,
        "not used: 1 class folder without an image (cow)"),
    Case("a class of one image",
        {**FLAT, "cow/0.png": PNG},
        {"train": {"cat": 4, "cow": 1, "dog": 4}, "test": {"cat": 1, "dog": 1}},
        "1 of 3 classes has no test image: cow"),
    Case("classes of one image each",
        {"cat/0.png": PNG, "dog/0.png": PNG},
        error="a class in PATH must have two images, one of them for testing, found one of each"),
    Case("nested folders in a class",
        {**SPLIT, "train/cat/more/9.png": PNG, "train/cat/more/deep/9.png": PNG},
        {**SPLIT_COUNTS, "train": {"cat": 4, "dog": 1}}),
    Case("one class in two Unicode forms",
        {f"train/{CAFE}/1.png": PNG, f"train/{CAFE_ON_A_MAC}/1.png": PNG, "train/dog/1.png": PNG,
         f"test/{CAFE_ON_A_MAC}/1.png": PNG, "test/dog/1.png": PNG},
        {"train": {CAFE: 2, "dog": 1}, "test": {CAFE: 1, "dog": 1}},
        f"names that differ only in their Unicode form are one class: {CAFE}"),
    Case("classes that differ only by case",
        {**FLAT, "Cat/0.png": PNG, "Cat/1.png": PNG},
        {"train": {"Cat": 1, "cat": 4, "dog": 4}, "test": {"Cat": 1, "cat": 1, "dog": 1}},
        "classes whose names differ only by case: Cat, cat"),
    Case("an image beside the classes of a split",
        {**SPLIT, "train/x.png": PNG},
        error="expected train/CLASS/… and test/CLASS/… in PATH, found train/x.png"),
    Case("an image beside class folders",
        {**FLAT, "x.png": PNG},
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found x.png"),
    Case("images without classes",
        {"1.png": PNG, "2.png": PNG},
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found 1.png"),
    Case("a folder a level too high",
        under("pets", SPLIT),
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found pets/test/cat/3.png; "
        "give PATH/pets, one level deeper",
        forms=("folder",)),
    Case("a folder two levels too high",
        under("my/pets", SPLIT),
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found my/pets/test/cat/3.png; "
        "give PATH/my, one level deeper",
        forms=("folder",)),
    Case("several data sets in one folder",
        {**under("one", SPLIT), **under("two", SPLIT)},
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found one/test/cat/3.png"),
    Case("nothing but an archive",
        {"pets.zip": b"PK"},
        error="expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in PATH, found no images; "
        "not used: 1 file without an image suffix (pets.zip)"),
    Case("an archive with a folder around the data", under("pets", SPLIT), SPLIT_COUNTS, forms=("tar", "zip")),
    Case("an archive with a folder and other files around the data",
        {**under("pets", SPLIT), "pets/README.md": b"x", "LICENSE": b"x"},
        SPLIT_COUNTS,
        "not used: 2 files without an image suffix (LICENSE, README.md)",
        forms=("tar", "zip")),
    Case("a class folder that is a link",
        {**SPLIT, "train/cow": Link("../other"), "other/1.png": PNG, "other/2.png": PNG, "test/cow/1.png": PNG},
        {"train": {"cat": 2, "cow": 2, "dog": 1}, "test": {"cat": 1, "cow": 1, "dog": 1}},
        "not used: 1 folder beside the splits (other)"),
    Case("a split and a class that are links, through links",
        {**{name.replace("train", "in/all"): entry for name, entry in SPLIT.items()},
         "train": Link("now/all"), "now": Link("in"), "in/all/cow": Link("../../now/all/dog"),
         "test/cow": Link("../train/../all/cow")},
        {"train": {"cat": 2, "cow": 1, "dog": 1}, "test": {"cat": 1, "cow": 1, "dog": 1}},
        "not used: 2 folders beside the splits (in, now)"),
    Case("links to images, symbolic and hard",
        {**SPLIT, "train/dog/2.png": Link("../cat/1.png"), "train/dog/3.png": Link("train/cat/2.png", hard=True)},
        {**SPLIT_COUNTS, "train": {"cat": 2, "dog": 3}}),
    Case("links that lead nowhere",
        {**SPLIT, "train/cat/9.png": Link("gone.png"), "train/dog/8.png": Link("8.png")},
        SPLIT_COUNTS,
        "not used: 2 broken links (train/cat/9.png, train/dog/8.png)",
        forms=("folder",)),
    Case("a link to nothing in an archive",
        {**SPLIT, "train/cat/9.png": Link("gone.png")},
        error="train/cat/9.png in PATH links to gone.png, which leads to nothing in the archive; "
        "store the file or folder itself",
        forms=("tar", "zip")),
    Case("a class folder that is a link out of an archive",
        {**SPLIT, "train/cow": Link("/home/me/cow")},
        error="train/cow in PATH links to /home/me/cow, which leads out of the archive; "
        "store the file or folder itself",
        forms=("tar", "zip")),
    Case("a link back up",
        {**SPLIT, "train/cat/round": Link("../cat")},
        SPLIT_COUNTS,
        "not used: 1 link to a folder inside a class folder (train/cat/round)",
        forms=("folder",)),
    Case("a link back up in an archive",
        {**SPLIT, "train/cat/round": Link("../cat")},
        error="train/cat/round in PATH links to ../cat, which leads in a loop; store the file or folder itself",
        forms=("tar", "zip")),
    Case("an animation", {**SPLIT, "train/cat/3.gif": GIF.getvalue()}, {**SPLIT_COUNTS, "train": {"cat": 3, "dog": 1}}),
    Case("CMYK",
        {**SPLIT, "train/cat/3.jpg": image_bytes(Image.new("CMYK", (3, 2)), "JPEG")},
        {**SPLIT_COUNTS, "train": {"cat": 3, "dog": 1}}),
    Case("a photo that the camera has turned",
        {**SPLIT, "train/cat/3.jpg": image_bytes(Image.new("RGB", (2, 3)), "JPEG", exif=ROTATED)},
        {**SPLIT_COUNTS, "train": {"cat": 3, "dog": 1}}),
    Case("16 bits a channel",
        {**SPLIT, "train/cat/3.png": image_bytes(Image.new("I;16", (3, 2)))},
        error="train/cat/3.png in PATH must have 8 bits a channel, got Pillow's mode I;16"),
    Case("a text file named as an image",
        {**SPLIT, "train/cat/3.jpg": b"<html>404</html>"},
        error="train/cat/3.jpg in PATH must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"),
    Case("a file of no bytes",
        {**SPLIT, "train/cat/3.jpg": b""},
        error="train/cat/3.jpg in PATH must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"),
    Case("images of two sizes",
        {**SPLIT, "train/dog/9.png": png(size=(5, 4))},
        error="train/dog/9.png in PATH must be 3×2 pixels like train/cat/1.png, got 5×4; data.size resizes all images"),
]  # fmt: skip


def write_case(case: Case, folder: Path, form: Form) -> Path:
    """Writes the data of a case in one form; returns its path."""
    data = folder / "data"
    data.mkdir()
    # Hard links last: their targets must be there.
    for name, entry in sorted(case.entries.items(), key=lambda item: isinstance(item[1], Link) and item[1].hard):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        if entry is None:
            (data / name).mkdir(exist_ok=True)
        elif isinstance(entry, bytes):
            (data / name).write_bytes(entry)
        elif entry.hard:
            (data / name).hardlink_to(data / entry.target)
        else:
            (data / name).symlink_to(entry.target)
    return data if form == "folder" else pack(data, folder / f"data.{form}")


def pack(data: Path, archive: Path) -> Path:
    """Packs a folder as ``tar -C FOLDER .`` or ``zip -ry`` do."""
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*"))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in names:
                if (data / name).is_symlink():
                    zipped.writestr(zip_link(name), str((data / name).readlink()))
                else:
                    zipped.write(data / name, name)
    else:
        with tarfile.open(archive, "w") as packed:
            for name in names:
                packed.add(data / name, f"./{name}", recursive=False)
    return archive


def read_source(source: Source) -> tuple[Counts, str]:
    """Returns the number of images by split and class, and the notes."""
    contents = source.snapshot().read()
    counts: dict[str, Counter[str]] = {}
    for chunk in contents.chunks:
        names = (contents.classes[label] for label in chunk.labels.tolist())
        counts.setdefault(chunk.split, Counter()).update(names)
    return {split: dict(sorted(of_class.items())) for split, of_class in counts.items()}, "; ".join(contents.notes)


def check_source(source: Source, path: Path, counts: Counts, notes: str, error: str) -> None:
    if not error:
        assert read_source(source) == (counts, notes)
        return
    with pytest.raises(UserError) as raised:
        read_source(source)
    assert str(raised.value) == error.replace("PATH", str(path))


@pytest.mark.parametrize(
    ("case", "form"), [pytest.param(case, form, id=f"{case.name} ({form})") for case in CASES for form in case.forms]
)
def test_a_folder_is_read_as_it_should_be_or_refused_by_name(case: Case, form: Form, tmp_path: Path) -> None:
    path = write_case(case, tmp_path, form)
    check_source(sources.images(path), path, case.counts, case.notes, case.error)


X = np.zeros((6, 2, 3), np.uint8)
ARRAYS: dict[str, npt.NDArray[Any]] = {
    "x_train": X, "y_train": np.array([0, 1, 2, 0, 1, 2]), "x_test": X[:3], "y_test": np.array([0, 1, 2])
}  # fmt: skip
THREE_CLASSES: Counts = {"train": {"0": 2, "1": 2, "2": 2}, "test": {"0": 1, "1": 1, "2": 1}}


def renamed(counts: Counts, *names: str) -> Counts:
    return {split: {names[int(name)]: count for name, count in of_class.items()} for split, of_class in counts.items()}


def relabelled(*labels: object, dtype: Any = None) -> dict[str, npt.NDArray[Any]]:
    """Returns the labels of the arrays with other values for 0, 1 and 2."""
    return {name: np.array(labels, dtype)[ARRAYS[name]] for name in ("y_train", "y_test")}


@dataclass(frozen=True)
class ArrayCase:
    """Arrays as found; ``changes`` to `ARRAYS`, None for an array that is missing. The rest is as for `Case`."""

    name: str
    changes: Mapping[str, npt.NDArray[Any] | None]
    counts: Counts = field(default_factory=dict)
    notes: str = ""
    error: str = ""


ARRAY_CASES = [
    ArrayCase("plain", {}, THREE_CLASSES),
    ArrayCase(
        "labels from 1",
        relabelled(1, 2, 3),
        renamed(THREE_CLASSES, "1", "2", "3"),
        "labels are 1, 2, 3: classes are named after them",
    ),
    ArrayCase(
        "labels with gaps",
        relabelled(1, 2, 5),
        renamed(THREE_CLASSES, "1", "2", "5"),
        "labels are 1, 2, 5: classes are named after them",
    ),
    ArrayCase(
        "negative labels",
        relabelled(-1, 0, 1),
        renamed(THREE_CLASSES, "-1", "0", "1"),
        "labels are -1, 0, 1: classes are named after them",
    ),
    ArrayCase(
        "names of labels from 1",
        {**relabelled(1, 2, 3), "classes": np.array(["cat", "dog", "cow"])},
        {split: dict(sorted(names.items())) for split, names in renamed(THREE_CLASSES, "cat", "dog", "cow").items()},
        "labels are 1, 2, 3: classes names them in this order",
    ),
    ArrayCase(
        "names of labels from 0",
        {"classes": np.array(["ant", "bee", "cow"])},
        renamed(THREE_CLASSES, "ant", "bee", "cow"),
    ),
    ArrayCase(
        "a name too many",
        {"classes": np.array(["ant", "bee", "cow", "dog"])},
        renamed(THREE_CLASSES, "ant", "bee", "cow"),
        "not used: 1 class name without an image (dog)",
    ),
    ArrayCase(
        "names that do not fit",
        {**relabelled(1, 2, 5), "classes": np.array(["ant", "bee"])},
        error="classes in PATH must name the 3 labels 1, 2, 5, got 2 names",
    ),
    ArrayCase(
        "labels that are class names",
        relabelled("ant", "bee", CAFE_ON_A_MAC),
        renamed(THREE_CLASSES, "ant", "bee", CAFE),
    ),
    ArrayCase(
        "class names in bytes", relabelled(b"ant", b"bee", CAFE.encode()), renamed(THREE_CLASSES, "ant", "bee", CAFE)
    ),
    ArrayCase(
        "class names in another order",
        {**relabelled("ant", "bee", "cow"), "classes": np.array(["cow", "bee", "ant"])},
        renamed(THREE_CLASSES, "ant", "bee", "cow"),
    ),
    ArrayCase("whole numbers as floats", relabelled(0, 1, 2, dtype=np.float32), THREE_CLASSES),
    ArrayCase(
        "truth values",
        relabelled(False, True, True),
        {"train": {"False": 2, "True": 4}, "test": {"False": 1, "True": 2}},
    ),
    ArrayCase(
        "other numbers", relabelled(0, 1, 2.5), error="y_train in PATH must be whole numbers or class names, got 2.5"
    ),
    ArrayCase(
        "one-hot labels",
        {"y_train": np.eye(3, dtype=int)[ARRAYS["y_train"]]},
        error="expected x_train (N, …) and y_train (N,) in PATH, got (6, 2, 3) and (6, 3); "
        "if y_train is one-hot, save y_train.argmax(1)",
    ),
    ArrayCase(
        "floats from 0 to 1",
        {"x_train": X / np.float32(255)},
        error="x_train in PATH must be uint8, got float32; for values from 0 to 1, "
        'save (x_train * 255).round().astype("uint8")',
    ),
    ArrayCase(
        "pixels in int64",
        {"x_test": X[:3].astype(int)},
        error='x_test in PATH must be uint8, got int64; for values from 0 to 255, save x_test.astype("uint8")',
    ),
    ArrayCase(
        "a validation split",
        {"x_validation": X[:2], "y_validation": np.array([0, 1])},
        {**THREE_CLASSES, "validation": {"0": 1, "1": 1}},
        "1 of 3 classes has no validation image: 2",
    ),
    ArrayCase(
        "a validation split named val",
        {"x_val": X[:3], "y_val": np.array([2, 1, 0])},
        {**THREE_CLASSES, "validation": {"0": 1, "1": 1, "2": 1}},
    ),
    ArrayCase(
        "two validation splits",
        {"x_val": X, "y_val": ARRAYS["y_train"], "x_validation": X},
        error="PATH must have one validation split, found x_val or y_val beside x_validation",
    ),
    ArrayCase(
        "half a validation split", {"x_val": X}, error="PATH must hold x_val and y_val, or neither, found no y_val"
    ),
    ArrayCase(
        "a class in test alone",
        {"y_test": np.array([0, 1, 7])},
        error="every class in PATH must have a training image, found none of 7",
    ),
    ArrayCase(
        "a class without test images",
        {"y_test": np.array([0, 1, 1])},
        {**THREE_CLASSES, "test": {"0": 1, "1": 2}},
        "1 of 3 classes has no test image: 2",
    ),
    ArrayCase(
        "other arrays",
        {"ids": np.arange(6), "meta": np.array("x")},
        THREE_CLASSES,
        "not used: 2 arrays of another name (ids, meta)",
    ),
    ArrayCase(
        "other names",
        {"x_train": None, "y_train": None, "x_test": None, "y_test": None, "x": X, "y": np.arange(6)},
        error="PATH must hold x_train, y_train, x_test and y_test, found x, y",
    ),
    ArrayCase(
        "numbers and names",
        {"y_test": np.array(["0", "1", "2"])},
        error="labels in PATH must be numbers in all splits or class names in all splits, got both",
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ARRAY_CASES])
def test_arrays_are_read_as_they_should_be_or_refused_by_name(case: ArrayCase, tmp_path: Path) -> None:
    path = tmp_path / "pets.npz"
    arrays: dict[str, Any] = {name: array for name, array in {**ARRAYS, **case.changes}.items() if array is not None}
    np.savez(path, **arrays)
    check_source(sources.arrays(path), path, case.counts, case.notes, case.error)
