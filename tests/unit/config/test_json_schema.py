"""Tests of fcnet.config.json_schema."""

from __future__ import annotations

from typing import Any

import pytest

from fcnet.config.json_schema import TrainingMetadata, parse_object
from fcnet.runtime.errors import UserError

ENTRIES = {
    "epoch": 1,
    "step": 3,
    "images": 0,
    "seconds": 0.5,
    "previous_seconds": 0.0,
    "optimizer": {"scalars": {}, "param_groups": []},
    "best": [1, 0.5],
    "more": "is allowed",
}


def test_entries_of_the_right_types_are_returned() -> None:
    metadata = parse_object(TrainingMetadata, ENTRIES, "x.json")
    assert (metadata.step, metadata.best) == (3, (1, 0.5))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epoch": "1"}, 'epoch must be an integer, got "1"'),
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"seconds": None}, "seconds must be a number, got None"),
        ({"optimizer": []}, "optimizer must be a section, got []"),
    ],
)
def test_the_first_wrong_entry_is_named(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError) as error:
        parse_object(TrainingMetadata, ENTRIES | change, "x.json")
    assert str(error.value) == f"x.json: {rule}"
