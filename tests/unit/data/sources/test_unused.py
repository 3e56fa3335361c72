"""Tests of fcnet.data.sources.unused: items are counted, and the first three names of each reason are kept."""

from __future__ import annotations

import itertools
import random

import pytest

from fcnet.data.sources.unused import Reason, UnusedItems, conversion_notes, list_names, missing_class_notes


def count(reason: Reason, names: list[str]) -> UnusedItems:
    unused = UnusedItems()
    for name in names:
        unused.add(reason, name)
    return unused


def test_nothing_unused_gives_no_sentence() -> None:
    assert UnusedItems().notes() == ()
    assert UnusedItems().describe() == ""


def test_the_first_names_do_not_depend_on_the_order() -> None:
    for names in itertools.permutations("edcba"):
        unused = count(Reason.NO_IMAGE_SUFFIX, list(names))
        assert unused.first(Reason.NO_IMAGE_SUFFIX) == ["a", "b", "c"]
        assert unused.notes() == ("not used: 5 files without an image suffix (a, b, c, …)",)


def test_three_names_are_listed_whole() -> None:
    assert count(Reason.BROKEN_LINK, ["a", "b", "c"]).describe() == "3 broken links (a, b, c)"


def test_reasons_keep_their_order_and_one_item_is_singular() -> None:
    unused = count(Reason.EMPTY_CLASS, ["train/cow"])
    unused.add(Reason.NO_IMAGE_SUFFIX, "notes.txt")
    assert unused.describe() == (
        "1 file without an image suffix (notes.txt), 1 class folder without an image (train/cow)"
    )


def test_counts_of_two_parts_add_up_like_those_of_the_whole() -> None:
    names = [f"{number:04}" for number in range(50)]
    random.Random(0).shuffle(names)
    parts = count(Reason.OUTSIDE_SPLITS, names[:20])
    parts.update(count(Reason.OUTSIDE_SPLITS, names[20:]))
    assert parts.describe() == count(Reason.OUTSIDE_SPLITS, names).describe()


def test_a_copy_counts_by_itself() -> None:
    unused = count(Reason.BROKEN_LINK, ["a"])
    unused.copy().add(Reason.BROKEN_LINK, "b")
    assert unused.describe() == "1 broken link (a)"


@pytest.mark.parametrize(
    ("present", "notes"),
    [
        ({"cat", "dog"}, []),
        ({"cat"}, ["1 of 2 classes has no validation image: dog"]),
        (set(), ["2 of 2 classes have no validation image: cat, dog"]),
    ],
)
def test_classes_without_images_are_named(present: set[str], notes: list[str]) -> None:
    assert list(missing_class_notes("validation", ["cat", "dog"], present)) == notes


def test_only_conversions_that_happen_are_described() -> None:
    assert list(conversion_notes(9, channels=0, size=0, shape=(3, 4, 5))) == []
    assert list(conversion_notes(9, channels=2, size=0, shape=(3, 4, 5))) == [
        "2 of 9 images are converted from grey to three equal channels"
    ]


def test_at_most_five_names_are_listed() -> None:
    assert list_names("edcba") == "a, b, c, d, e"
    assert list_names("fedcba") == "a, b, c, d, e, …"
