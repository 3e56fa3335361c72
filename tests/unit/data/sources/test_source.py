"""Sources: what they hold, in which order, and what they say about data that is not as it should be."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import tarfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcnet.data.sources import source as sources
from fcnet.data.sources.image_folder import find_images, scan_path
from fcnet.data.sources.source import arrays, decode_image, digits, images, synthetic
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from fcnet.data.sources.source import Source


def contents(source: Source) -> tuple[tuple[str, ...], dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]]:
    """The classes, and by split all pixels and labels."""
    read = source.snapshot().read()
    examples = list(read.chunks)
    return read.classes, {
        split: (
            np.concatenate([some.pixels for some in examples if some.split == split]),
            np.concatenate([some.labels for some in examples if some.split == split]),
        )
        for split in ("train", "test")
    }


def image_bytes(value: int, mode: str = "RGB", size: tuple[int, int] = (3, 2), form: str = "PNG") -> bytes:
    """One image of one colour, (value, 0, 0) or grey."""
    colour: Any = {"RGB": (value, 0, 0), "RGBA": (value, 0, 0, 128)}.get(mode, value)
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, form)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(
    path: Path,
    folder: Path,
    members: list[str],
    root: str = "",
    mode: str = "w",
    form: int = tarfile.PAX_FORMAT,
) -> Path:
    with tarfile.open(path, mode.removesuffix(":zst"), format=form) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.add(folder / member, f"{root}{member}", recursive=False)
    if mode.endswith(":zst"):
        path.write_bytes(zstandard(path.read_bytes()))
    return path


def zstandard(content: bytes, *, checksum: bool = True) -> bytes:
    """Compressed as the program ``zstd`` does it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: int(checksum)})


PAIR = {
    "train/cat/b.png": image_bytes(2),
    "train/cat/a.png": image_bytes(1),
    "train/ant/c.PNG": image_bytes(3),
    "test/cat/d.png": image_bytes(4),
    "test/ant/e.png": image_bytes(5),
}
IN_ORDER = ["train/ant/c.PNG", "train/cat/a.png", "train/cat/b.png", "test/ant/e.png", "test/cat/d.png"]


FOR_TESTING = {"ant/0.png", "ant/9.png", "bee/0.png", "bee/9.png", "cow/0.png"}


# --- digits -----------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_on_255_levels_each_in_one_split() -> None:
    from sklearn.datasets import load_digits

    classes, splits = contents(digits())
    assert classes == tuple("0123456789")
    assert splits["train"][0].shape == (1437, 1, 8, 8)
    assert splits["test"][0].shape == (360, 1, 8, 8)
    expected = sorted(
        (int(label), bytes(round(x * 255 / 16) for x in image.flat))
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    )
    got = [(int(label), image.tobytes()) for x, y in splits.values() for image, label in zip(x, y, strict=True)]
    assert sorted(got) == expected


def test_of_every_digit_a_fifth_is_for_testing() -> None:
    _, splits = contents(digits())
    train, test = (np.bincount(splits[split][1]) for split in ("train", "test"))
    assert np.all(np.abs(test - (train + test) / 5) < 1)


def test_the_split_of_the_digits_is_this_one_for_ever() -> None:
    _, splits = contents(digits())
    digest = hashlib.sha256(splits["test"][0].tobytes() + splits["test"][1].tobytes()).hexdigest()
    assert digest[:16] == "83c99461e31a2576"


# --- synthetic --------------------------------------------------------------------------------------------


def test_synthetic_images_have_the_shape_and_the_counts_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 2 * 3 * 4 * 5)
    classes, splits = contents(synthetic((3, 4, 5), 31, 7, num_classes=4))
    assert classes == ("0", "1", "2", "3")
    assert splits["train"][0].shape == (31, 3, 4, 5)
    assert splits["test"][0].shape == (7, 3, 4, 5)
    assert splits["train"][1].tolist() == [row % 4 for row in range(31)]
    assert len(np.unique(np.concatenate([x for x, _ in splits.values()]), axis=0)) == 38


def test_synthetic_images_are_the_same_every_time() -> None:
    first, second = (contents(synthetic((1, 4, 4), 50, 10, num_classes=3))[1]["train"][0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_classes_of_synthetic_images_can_be_told_apart() -> None:
    _, splits = contents(synthetic((3, 16, 16), 2000, 500, num_classes=5))
    (x, y), (x_test, y_test) = (
        (pixels.reshape(len(pixels), -1).astype(float), labels) for pixels, labels in (splits["train"], splits["test"])
    )
    means = np.stack([x[y == label].mean(0) for label in range(5)])
    nearest = (x_test @ means.T - (means**2).sum(1) / 2).argmax(1)
    assert (nearest == y_test).mean() > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (8, 8)}, "shape must be three positive numbers (C, H, W), got [8, 8]"),
        ({"shape": (0, 8, 8)}, "shape must be three positive numbers (C, H, W), got [0, 8, 8]"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"train_size": 4}, "train_size must be at least num_classes (5), got 4"),
        ({"test_size": 0}, "test_size must be at least 1, got 0"),
    ],
)
def test_a_synthetic_set_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"shape": (1, 8, 8), "train_size": 10, "test_size": 5, "num_classes": 5, **changes}
    with pytest.raises(UserError) as error:
        synthetic(**arguments)
    assert str(error.value) == message


# --- images: what is read ---------------------------------------------------------------------------------


def test_images_come_by_class_and_name_with_their_pixels(tmp_path: Path) -> None:
    classes, splits = contents(images(write(tmp_path, PAIR)))
    assert classes == ("ant", "cat")
    assert splits["train"][1].tolist() == [0, 1, 1]
    assert splits["train"][0].shape == (3, 3, 2, 3)
    assert splits["train"][0][:, :, 0, 0].tolist() == [[3, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert splits["test"][0][:, 0, 1, 2].tolist() == [5, 4]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "w:zst"])
@pytest.mark.parametrize("root", ["", "./", "some folder/", "/"])
def test_an_archive_holds_what_its_folder_holds_whatever_the_order_of_its_members(
    tmp_path: Path, mode: str, root: str
) -> None:
    folder = write(tmp_path / "folder", PAIR)
    shuffled = [IN_ORDER[place] for place in (3, 1, 4, 0, 2)]
    archive = pack(tmp_path / "images.archive", folder, shuffled, root, mode)
    assert repr(contents(images(archive))) == repr(contents(images(folder)))


def test_classes_are_in_alphabetical_order(tmp_path: Path) -> None:
    in_order = ["10", "9", "Apple", "date", "fig", "kiwi", "lime", "pear", "plum"]
    for name in in_order[::-2] + in_order[1::2]:
        write(tmp_path, {f"{split}/{name}/1.png": image_bytes(1) for split in ("train", "test")})
    assert images(tmp_path).snapshot().read().classes == tuple(in_order)


def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(images(write(tmp_path, PAIR)))
    monkeypatch.setattr(sources, "DECODE_BATCH_BYTES", 1)
    assert len(list(images(tmp_path).snapshot().read().chunks)) == 5
    assert repr(contents(images(tmp_path))) == repr(whole)


def test_hidden_files_other_files_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", PAIR)
    expected = repr(contents(images(folder)))
    write(
        folder,
        {
            "README.md": b"",
            "train/.DS_Store": b"",
            "train/cat/.a.png": b"",
            "train/cat/Thumbs.db": b"",
            "train/.git/x.png": b"",
            "train/notes.txt": b"",
            "valid/dog/1.png": b"",
        },
    )
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    archive = pack(tmp_path / "a.tar", folder, names)
    assert repr(contents(images(folder))) == expected
    assert repr(contents(images(archive))) == expected


def test_images_deeper_in_a_class_belong_to_it_and_links_cannot_go_round(tmp_path: Path) -> None:
    write(tmp_path, {**PAIR, "train/cat/more/a.png": image_bytes(9)})
    (tmp_path / "train/cat/round").symlink_to(tmp_path / "train/cat")
    (tmp_path / "train/cat/z.png").symlink_to(tmp_path / "train/cat/a.png")
    _, splits = contents(images(tmp_path))
    assert splits["train"][1].tolist() == [0, 1, 1, 1, 1]
    assert splits["train"][0][:, 0, 0, 0].tolist() == [3, 1, 2, 9, 1]


def test_links_in_an_archive_count_as_what_they_lead_to(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", PAIR)
    (folder / "train/cat/hard.png").hardlink_to(folder / "train/cat/a.png")
    (folder / "train/ant/soft.png").symlink_to("../cat/b.png")
    names = ["train/ant/soft.png", *IN_ORDER, "train/cat/hard.png"]
    archive = pack(tmp_path / "a.tar", folder, names)
    assert repr(contents(images(archive))) == repr(contents(images(folder)))


def test_a_link_that_leads_out_of_an_archive_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", PAIR)
    (folder / "train/ant/soft.png").symlink_to("../../../elsewhere.png")
    archive = pack(tmp_path / "a.tar", folder, [*IN_ORDER, "train/ant/soft.png"])
    with pytest.raises(UserError, match=r"^train/ant/soft\.png in .*a\.tar must be a file, or a link"):
        images(archive).snapshot().read()


def test_grey_images_have_one_channel_and_one_in_colour_makes_three_of_all(tmp_path: Path) -> None:
    grey = {name: image_bytes(7, "L") for name in IN_ORDER}
    _, splits = contents(images(write(tmp_path / "grey", {**grey, "train/cat/z.png": image_bytes(1, "1")})))
    assert splits["train"][0].shape == (4, 1, 2, 3)
    assert splits["train"][0][:, 0, 0, 0].tolist() == [7, 7, 7, 255]
    _, splits = contents(images(write(tmp_path / "mixed", {**grey, "test/cat/z.png": image_bytes(9)})))
    assert splits["train"][0][:, :, 0, 0].tolist() == [[7, 7, 7]] * 3
    assert splits["test"][0][-1, :, 0, 0].tolist() == [9, 0, 0]


# --- images: what is refused ------------------------------------------------------------------------------

NO_IMAGE = "must be an image (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP), got something else"
WRONG: list[tuple[dict[str, bytes | None], str]] = [
    (
        {"test/cat/d.png": image_bytes(4, size=(5, 4))},
        "test/cat/d.png in {} must be 3×2 pixels as train/ant/c.PNG is, got 5×4",
    ),
    ({"test/cat/d.png": image_bytes(4)[:-30]}, "test/cat/d.png in {} must be a whole image, got: "),
    (
        {"test/cat/d.png": b"text"},
        f"test/cat/d.png in {{}} {NO_IMAGE}",
    ),
    (
        {"train/ant/c.PNG": b""},
        f"train/ant/c.PNG in {{}} {NO_IMAGE}",
    ),
    (
        {"test/cat/d.png": image_bytes(400, "I;16")},
        "test/cat/d.png in {} must have 8 bits a channel, got Pillow's mode I;16",
    ),
    ({"test/cat/d.png": None}, "every class folder in {} must hold an image, found none in test/cat"),
    ({"train/dog/f.png": image_bytes(6)}, "expected the same classes in train and test of {}, found dog in train only"),
    (
        {"train/dog/f.png": image_bytes(6), "test/cow/f.png": image_bytes(6)},
        "expected the same classes in train and test of {}, found dog in train only and cow in test only",
    ),
    ({"train/f.png": image_bytes(6)}, "expected train/CLASS/… and test/CLASS/… in {}, found train/f.png"),
]


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_images_that_are_not_as_they_should_be_are_named(
    tmp_path: Path, form: str, changes: dict[str, bytes | None], message: str
) -> None:
    path = write(tmp_path / "folder", PAIR)
    write(path, {name: content for name, content in changes.items() if content is not None})
    for name in (name for name, content in changes.items() if content is None):
        (path / name).unlink()
    if form == "archive":
        names = [str(found.relative_to(path)) for found in path.rglob("*")]
        path = pack(tmp_path / "a.tar", path, names)
    with pytest.raises(UserError) as error:
        contents(images(path))
    assert str(error.value).startswith(message.format(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "no images"),
        ({"Train/cat/a.png": image_bytes(1), "Test/cat/a.png": image_bytes(1)}, "Test, Train"),
        ({"train/a.png": image_bytes(1), "bus/a.png": image_bytes(1)}, "bus, train"),
        ({"train/cat/a.png": image_bytes(1)}, "train"),
        ({"train/cat/a.txt": b"", "test/cat/a.txt": b""}, "no images"),
    ],
)
def test_a_source_laid_out_otherwise_says_what_was_found(tmp_path: Path, files: dict[str, bytes], found: str) -> None:
    folder = write(tmp_path / "folder", files)
    folder.mkdir(exist_ok=True)
    archive = pack(tmp_path / "a.tar", folder, list(files))
    for path in [archive] if found == "no images" and files else [archive, folder]:
        with pytest.raises(UserError) as error:
            images(path).snapshot().read()
        assert str(error.value) == f"expected train/CLASS/… and test/CLASS/… in {path}, found {found}"


def test_split_folders_without_a_class_hold_no_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"^expected train/CLASS/… and test/CLASS/… in .*, found no images$"):
        images(tmp_path).snapshot().read()


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = rf"^{tmp_path}/nowhere must be a folder or a .*: No such file or directory$"
    with pytest.raises(UserError, match=message):
        images(tmp_path / "nowhere").snapshot()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(2000))
    with pytest.raises(UserError, match=r"a\.zip must be a folder or a whole tar archive, got: "):
        images(tmp_path / "a.zip").snapshot().read()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "w:zst"])
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, mode: str) -> None:
    archive = pack(tmp_path / "a.tar", write(tmp_path / "folder", PAIR), IN_ORDER, mode=mode)
    whole = archive.read_bytes()
    # A plain archive ends with 10,240-byte padding, of which the first kilobyte alone means something.
    end = whole.rstrip(b"\0") + bytes(512) if mode == "w" else whole
    for length in sorted({0, 3, len(end) // 3, 512, 1024, 1536, len(end) - 600, len(end) - 1}):
        if 0 <= length < len(end):
            archive.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar archive, got: "):
                images(archive).snapshot().read()


def test_a_broken_header_in_an_archive_does_not_pass_for_its_end(tmp_path: Path) -> None:
    write(tmp_path / "folder", PAIR)
    archive = pack(tmp_path / "a.tar", tmp_path / "folder", IN_ORDER, form=tarfile.USTAR_FORMAT)
    broken = bytearray(archive.read_bytes())
    broken[broken.index(b"test/cat/d.png")] ^= 1
    archive.write_bytes(broken)
    with pytest.raises(UserError, match=r"a\.tar must be a folder or a whole tar archive, got: broken header"):
        images(archive).snapshot().read()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_zstandard_archive_may_come_in_frames_of_which_some_are_to_be_skipped(tmp_path: Path, checksum: bool) -> None:
    folder = write(tmp_path / "folder", PAIR)
    archive = pack(tmp_path / "a.tar.zst", folder, IN_ORDER)
    content = archive.read_bytes()
    skipped = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00???"
    parts = [zstandard(part, checksum=checksum) for part in (content[:700], content[700:])]
    archive.write_bytes(skipped + skipped.join(parts))
    assert repr(contents(images(archive))) == repr(contents(images(folder)))
    archive.write_bytes(parts[0] + parts[1][:-1])
    with pytest.raises(UserError, match=r"a\.tar\.zst must be a folder or a whole tar archive, got: Compressed file "):
        images(archive).snapshot().read()


def test_a_changed_bit_of_a_zstandard_archive_is_noticed_or_says_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.zst", write(tmp_path / "folder", PAIR), IN_ORDER, mode="w:zst")
    whole, expected = archive.read_bytes(), repr(contents(images(archive)))
    refused = 0
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(changed)
        try:
            assert repr(contents(images(archive))) == expected
        except UserError as error:
            refused += str(error).startswith(f"{archive} must be a folder or a whole tar archive, got: ")
    assert refused >= 0.95 * len(range(0, 8 * len(whole), 5))


# --- images: one folder, split here ---------------------------------------------------------------------------


def in_one_folder(counts: dict[str, int]) -> dict[str, bytes]:
    return {f"{name}/{number}.png": image_bytes(number) for name, count in counts.items() for number in range(count)}


def for_testing(path: Path, test: float = 0.2) -> set[str]:
    """The names of the images for testing; those to train on must be all the others."""
    _, files = find_images(scan_path(path), test)
    assert len({file.name for file in files}) == len(files)
    return {file.name for file in files if file.split == "test"}


@pytest.mark.parametrize(
    ("test", "counts", "expected"),
    [
        (0.2, {"ant": 10, "bee": 20, "cow": 5}, [2, 4, 1]),
        (0.5, {"ant": 9, "bee": 3, "cow": 2}, [4, 2, 1]),
        (0.01, {"ant": 10, "bee": 2}, [1, 1]),
        (0.99, {"ant": 10, "bee": 2}, [9, 1]),
    ],
)
def test_of_each_class_in_one_folder_a_share_is_for_testing(
    tmp_path: Path, test: float, counts: dict[str, int], expected: list[int]
) -> None:
    classes, splits = contents(images(write(tmp_path, in_one_folder(counts)), test))
    assert classes == tuple(counts)
    assert np.bincount(splits["test"][1]).tolist() == expected
    assert np.bincount(splits["train"][1]).tolist() == [
        count - kept for count, kept in zip(counts.values(), expected, strict=True)
    ]
    values = {
        label: sorted(int(x[0, 0, 0]) for pixels, labels in splits.values() for x in pixels[labels == label])
        for label in range(len(counts))
    }
    assert list(values.values()) == [list(range(count)) for count in counts.values()]


def test_the_split_of_one_folder_is_this_one_for_ever(tmp_path: Path) -> None:
    folder = write(tmp_path, in_one_folder({"ant": 10, "bee": 10, "cow": 5}))
    assert for_testing(folder) == FOR_TESTING


def test_a_folder_is_split_the_same_whatever_else_is_in_it_and_in_whatever_order_it_comes(tmp_path: Path) -> None:
    files = in_one_folder({"ant": 10, "bee": 10, "cow": 5})
    for place, order in enumerate((sorted(files), sorted(files)[::-1], sorted(files, key=lambda name: name[::-1]))):
        folder = write(tmp_path / str(place), {name: files[name] for name in order})
        assert for_testing(folder) == FOR_TESTING
        for root in ("", "some folder/"):
            assert for_testing(pack(tmp_path / "a.tar", folder, order, root)) == FOR_TESTING
    write(folder, {**in_one_folder({"dog": 3}), "README.md": b"", "ant/notes.txt": b"", ".git/x.png": b""})
    assert {name for name in for_testing(folder) if not name.startswith("dog")} == FOR_TESTING


def test_an_image_more_moves_at_most_one_other_image_of_its_class(tmp_path: Path) -> None:
    folder = write(tmp_path, in_one_folder({"ant": 30, "bee": 30}))
    before = for_testing(folder)
    for number in range(30):
        write(folder, {f"ant/more {number}.png": image_bytes(1)})
        after = for_testing(folder)
        # One may leave, pushed out by the new one; one may come, when the share rises by one.
        assert len(before - after) <= 1
        assert len(after - before) <= 1
        assert {name for name in after if name.startswith("bee")} == {n for n in before if n.startswith("bee")}
        before = after


def test_classes_in_one_folder_may_be_links_and_links_cannot_go_round(tmp_path: Path) -> None:
    write(tmp_path, {f"elsewhere/{number}.png": image_bytes(number) for number in range(5)})
    folder = write(tmp_path / "folder", in_one_folder({"bee": 5}))
    (folder / "ant").symlink_to(tmp_path / "elsewhere")
    (folder / "bee/round").symlink_to(folder / "bee")
    classes, splits = contents(images(folder))
    assert classes == ("ant", "bee")
    assert splits["train"][1].tolist() == [0] * 4 + [1] * 4


def test_the_share_for_testing_is_in_the_fingerprint_where_it_may_matter(tmp_path: Path) -> None:
    one = write(tmp_path / "one", in_one_folder({"ant": 5, "bee": 5}))
    two = write(tmp_path / "two", PAIR)
    archive = pack(tmp_path / "a.tar", two, IN_ORDER)
    for path, matters in ((one, True), (archive, True), (two, False)):
        assert (images(path, 0.2).snapshot().fingerprint != images(path, 0.3).snapshot().fingerprint) == matters
    before = images(one).snapshot().fingerprint
    write(one, {"ant/more.png": image_bytes(1)})
    assert images(one).snapshot().fingerprint != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cow/0.png": image_bytes(1)},
            "every class in {} must hold two images or more to be split, found only cow/0.png",
        ),
        ({"a.png": image_bytes(1)}, "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {}, found a.png"),
        (
            {"val/ant/0.png": image_bytes(1)},
            "expected train/CLASS/… and test/CLASS/…, or CLASS/IMAGE, in {}, found val/ant/0.png",
        ),
        ({"cow": None}, "every class folder in {} must hold an image, found none in cow"),
        ({"test/0.png": image_bytes(1)}, "expected train/CLASS/… and test/CLASS/… in {}, found ant, bee, test"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "archive"])
def test_one_folder_that_cannot_be_split_is_refused(
    tmp_path: Path, form: str, changes: dict[str, bytes | None], message: str
) -> None:
    path = write(tmp_path / "folder", in_one_folder({"ant": 5, "bee": 5}))
    write(path, {name: content for name, content in changes.items() if content is not None})
    for name in (name for name, content in changes.items() if content is None):
        (path / name).mkdir()
    if form == "archive":
        path = pack(tmp_path / "a.tar", path, [str(found.relative_to(path)) for found in path.rglob("*")])
    with pytest.raises(UserError) as error:
        images(path).snapshot().read()
    assert str(error.value) == message.format(path)


def test_of_files_in_the_wrong_place_the_first_by_name_is_told(tmp_path: Path) -> None:
    misplaced = {f"train/{number:02}.png": image_bytes(1) for number in reversed(range(20))}
    path = write(tmp_path, PAIR | misplaced)
    with pytest.raises(UserError, match=r", found train/00\.png$"):
        images(path).snapshot().read()


@pytest.mark.parametrize("test", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_for_testing_that_leaves_nothing_is_refused(tmp_path: Path, test: float) -> None:
    with pytest.raises(UserError, match=rf"^test must be greater than 0 and less than 1, got {test}$"):
        images(tmp_path, test)


# --- images: fingerprints ---------------------------------------------------------------------------------


def test_every_change_to_a_folder_changes_its_fingerprint(tmp_path: Path) -> None:
    source = images(write(tmp_path, PAIR))
    seen = [source.snapshot().fingerprint]
    assert source.snapshot().fingerprint == seen[0]
    name = tmp_path / "train/cat/a.png"
    times = (name.stat().st_atime_ns, name.stat().st_mtime_ns)

    def same_size_and_time() -> None:
        name.write_bytes(image_bytes(200, "RGB")[::-1])
        os.utime(name, ns=times)

    changes: list[Callable[[], object]] = [
        lambda: os.utime(name, ns=(0, 0)),
        lambda: name.write_bytes(b"longer" + name.read_bytes()),
        same_size_and_time,
        lambda: name.rename(name.with_name("other.png")),
        lambda: (tmp_path / "train/dog").mkdir(),
        lambda: (tmp_path / "test/cat/d.png").unlink(),
    ]
    for change in changes:
        change()
        seen.append(source.snapshot().fingerprint)
    assert len({repr(fingerprint) for fingerprint in seen}) == len(changes) + 1


def test_hidden_files_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    before = images(write(tmp_path, PAIR)).snapshot().fingerprint
    write(tmp_path, {"train/cat/.DS_Store": b"x", "train/cat/notes.txt": b"x"})
    assert images(tmp_path).snapshot().fingerprint == before


def test_an_archive_and_its_other_name_and_its_changed_self_have_different_fingerprints(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", PAIR)
    archive = pack(tmp_path / "a.tar", folder, IN_ORDER)
    (tmp_path / "b.tar").hardlink_to(archive)
    seen = [images(path).snapshot().fingerprint for path in (archive, tmp_path / "b.tar", folder)]
    os.utime(archive, ns=(0, 0))
    seen.append(images(archive).snapshot().fingerprint)
    assert len({repr(fingerprint) for fingerprint in seen}) == 4
    assert images(archive).snapshot().fingerprint == images(archive).snapshot().fingerprint


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("change", ["rewritten", "touched", "removed", "replaced"])
@pytest.mark.parametrize("name", ["train/cat/a.png", "test/cat/d.png"])
def test_a_picture_that_changes_before_it_is_read_is_refused_by_name(
    tmp_path: Path, name: str, change: str, *, skip_broken: bool
) -> None:
    folder = write(tmp_path / "folder", PAIR)
    file = folder / name
    write(tmp_path, {"other.png": file.read_bytes()})
    os.utime(tmp_path / "other.png", ns=(0, file.stat().st_mtime_ns))
    seen = images(folder, skip_broken=skip_broken).snapshot()
    changes: dict[str, Callable[[], object]] = {
        "rewritten": lambda: file.write_bytes(file.read_bytes()),
        "touched": lambda: os.utime(file, ns=(0, 0)),
        "removed": file.unlink,
        "replaced": lambda: (tmp_path / "other.png").rename(file),
    }
    time.sleep(0.02)  # the clock of a file system may tick no oftener
    changes[change]()
    with pytest.raises(UserError) as error:
        list(seen.read().chunks)
    assert str(error.value) == f"{name} in {folder} must stay as it is while it is read, got a change"


def test_a_change_to_what_has_been_read_or_is_new_does_no_harm(tmp_path: Path) -> None:
    folder = write(tmp_path, PAIR)
    _, expected = contents(images(folder))
    seen = images(folder).snapshot()
    read = seen.read()
    write(folder, {"train/cat/new.png": image_bytes(1)})
    first, *rest = read.chunks
    write(folder, {"train/cat/a.png": image_bytes(1)})
    got = {examples.split: examples.labels.tolist() for examples in (first, *rest)}
    assert got == {split: labels.tolist() for split, (_, labels) in expected.items()}
    assert images(folder).snapshot().fingerprint != seen.fingerprint


@pytest.mark.parametrize("form", ["archive", "arrays"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, form: str) -> None:
    if form == "archive":
        path = pack(tmp_path / "a.tar", write(tmp_path / "folder", PAIR), IN_ORDER)
        seen = images(path).snapshot()
    else:
        path = tmp_path / "a.npz"
        pixels, labels = np.zeros((2, 4, 4), np.uint8), np.arange(2)
        np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        seen = arrays(path).snapshot()
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError) as error:
        seen.read()
    assert str(error.value) == f"{path} must stay as it is while it is read, got a change"


def test_every_parameter_of_a_synthetic_set_is_in_its_fingerprint() -> None:
    made = [
        ((1, 4, 4), 9, 5, 2),
        ((1, 4, 5), 9, 5, 2),
        ((1, 4, 4), 8, 5, 2),
        ((1, 4, 4), 9, 4, 2),
        ((1, 4, 4), 9, 5, 3),
    ]
    assert len({repr(synthetic(*arguments).snapshot().fingerprint) for arguments in made}) == len(made)


# --- one image --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_lossless_image_is_decoded_exactly(form: str) -> None:
    colours = np.arange(0, 2 * 3 * 3 * 10, 10, dtype=np.uint8).reshape(2, 3, 3)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    got = decode_image(io.BytesIO(file.getvalue()), 3, "x")
    np.testing.assert_array_equal(got, colours.transpose(2, 0, 1))
    assert got.flags.writeable
    assert got.flags.c_contiguous


def test_channels_are_as_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(image_bytes(100))
    assert decode_image(tmp_path / "x.png", 1, "x")[:, 0, 0].tolist() == [30]
    assert decode_image(io.BytesIO(image_bytes(100, "L")), 3, "x")[:, 0, 0].tolist() == [100] * 3
    with pytest.raises(UserError, match=r"^channels must be 1 or 3 to decode x, got 4$"):
        decode_image(tmp_path / "x.png", 4, "x")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x\.png must be a whole image, got: No such file or directory$"):
        decode_image(tmp_path / "x.png", 3, "x.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(form: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, form)
    damaged = bytearray(file.getvalue()[: data.draw(st.integers(1, len(file.getvalue())))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert decode_image(io.BytesIO(damaged), 3, "x").shape[0] == 3


# --- one image, resized -----------------------------------------------------------------------------------


def ramp(height: int, width: int) -> Image.Image:
    """Red rises by 2 a column, green by 2 a row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("of", "to"),
    [((60, 100), (6, 6)), ((100, 60), (6, 6)), ((60, 100), (3, 10)), ((50, 50), (5, 10))],
)
def test_an_image_is_scaled_to_cover_the_size_and_cropped_at_the_centre(
    of: tuple[int, int], to: tuple[int, int]
) -> None:
    got = decode_image(ramp(*of), 3, "x", to).astype(float)
    assert got.shape == (3, *to)
    scale = min(of[0] / to[0], of[1] / to[1])
    for axis, channel in ((1, got[0].mean(0)), (0, got[1].mean(1))):
        # The centre of a pixel lies so far from the image's centre, in pixels of before.
        places = (np.arange(to[axis]) - (to[axis] - 1) / 2) * scale + (of[axis] - 1) / 2
        np.testing.assert_allclose(channel[1:-1], 2 * places[1:-1], atol=1)  # rounding; a border is mirrored


def test_scaling_down_averages_so_that_fine_patterns_leave_no_trace() -> None:
    stripes = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    got = decode_image(stripes, 1, "x", (8, 8))
    assert got.min() >= 125
    assert got.max() <= 130


def test_an_image_that_has_the_size_is_not_touched() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    np.testing.assert_array_equal(decode_image(image, 3, "x", (9, 7)), decode_image(image, 3, "x"))


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (3, 7), (33, 31), (200, 200)])
@pytest.mark.parametrize("of", [(1, 1), (1, 50), (31, 33), (97, 89)])
def test_every_size_can_be_made_of_every_other(of: tuple[int, int], size: tuple[int, int]) -> None:
    assert np.all(decode_image(Image.new("L", of[::-1], 9), 1, "x", size) == np.full((1, *size), 9))
