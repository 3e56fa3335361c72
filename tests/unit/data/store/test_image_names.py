"""Tests of image names: every string is kept, and each is read by itself."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.data.store.image_names import ImageNames, encode_names

# Surrogates too: they stand for the bytes of file names that are not UTF-8.
NAMES = st.lists(st.text(st.characters(exclude_categories=())), max_size=8)


@given(first=NAMES, second=NAMES)
def test_names_are_read_as_they_were_written(first: list[str], second: list[str]) -> None:
    text, ends = encode_names(first + second)
    names = ImageNames(text, ends)
    assert list(names) == first + second
    assert list(pickle.loads(pickle.dumps(names))) == first + second  # noqa: S301 - its own
    parts = encode_names(first), encode_names(second, len(encode_names(first)[0]))
    assert b"".join(part.tobytes() for part, _ in parts) == text.tobytes()
    assert [end for _, part in parts for end in part.tolist()] == ends.tolist()


def test_indices_and_slices_are_those_of_a_list() -> None:
    expected = ["", "a", "täglich/ü.png", "猫/1.png"]
    names = ImageNames(*encode_names(expected))
    assert [names[index] for index in range(-4, 4)] == [expected[index] for index in range(-4, 4)]
    assert names[::-1] == expected[::-1]
    assert names[1:3] == expected[1:3]
    for index in (4, -5):
        with pytest.raises(IndexError, match=rf"^index must be less than 4, got {index}$"):
            names[index]
