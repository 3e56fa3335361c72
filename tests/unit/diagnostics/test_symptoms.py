"""Rules of fcnet.diagnostics.symptoms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fcnet.diagnostics.symptoms import gradient_advice, input_advice, layer_advice

LESS_DECAY = "try less weight decay, a smaller learning rate or fewer units"


def figures(number: int, **known: Any) -> dict[str, Any]:
    sound = {"dead": 0.0, "saturated": None, "activation_mean": 0.5, "gradient_norm": 1.0, "effective_rank": 40.0}
    return {"layer": number, "max_rank": 50, **sound, **known}


def test_of_a_sound_network_nothing_is_said() -> None:
    assert layer_advice([figures(1), figures(2, dead=0.3, saturated=0.3), figures(3, dead=None)]) == []
    assert layer_advice([]) == []


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({"dead": 0.41}, "layer 2: 41 % of the units are dead; try leaky_relu or a smaller learning rate"),
        ({"saturated": 1.0}, "layer 2: 100 % of the units are saturated; try relu, gelu or a smaller learning rate"),
        (
            {"effective_rank": 2.31},
            f"layer 2: its weights have an effective rank of 2.31, and could have 50; {LESS_DECAY}",
        ),
        ({"activation_mean": math.nan}, "layer 2: NaN or inf among its activations; try a smaller learning rate"),
        ({"activation_mean": math.inf}, "layer 2: NaN or inf among its activations; try a smaller learning rate"),
    ],
)
def test_what_is_wrong_with_a_layer_is_said_with_its_number_and_what_to_try(known: dict[str, Any], line: str) -> None:
    assert layer_advice([figures(1), figures(2, **known), figures(3)]) == [line]


def test_a_narrow_layer_has_no_low_rank() -> None:
    assert layer_advice([figures(1, effective_rank=1.0, max_rank=31)]) == []
    assert layer_advice([figures(1, effective_rank=1.0, max_rank=32)]) != []


def test_a_figure_that_is_not_known_says_nothing() -> None:
    unknown = dict.fromkeys(("dead", "saturated", "activation_mean", "gradient_norm", "effective_rank", "max_rank"))
    assert layer_advice([{"layer": 1, **unknown}, {"layer": 2}]) == []


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ([0.5, 1.0], ""),
        ([1.1e-3, 1.0], ""),
        ([0.9e-3, 1.0], "layer 1: its gradient is 0.0009 of that of layer 2; "),
        ([1.0, 1e-9, 1.0], "layer 2: its gradient is 1e-09 of that of layer 3; "),
        ([0.0, 0.1, 1.0], "layer 1: its gradient is 0 of that of layer 3; "),
        ([1.1e3, 1.0], "layer 1: its gradient is 1.1e+03 times that of layer 2; "),
        ([None, 1e-9, 1.0], "layer 2: its gradient is 1e-09 of that of layer 3; "),
        ([math.nan, 1.0], ""),
        ([1.0, math.nan], ""),
        ([1.0, 0.0], ""),
        ([1.0, None], ""),
        ([1.0], ""),
        ([], ""),
    ],
)
def test_a_layer_is_named_whose_gradient_is_far_from_the_last_ones(norms: list[float | None], said: str) -> None:
    lines = gradient_advice(norms)
    assert len(lines) == bool(said)
    assert all(line.startswith(said) for line in lines)


def test_inputs_are_spoken_of_where_most_of_them_never_change() -> None:
    assert input_advice(0.5) == input_advice(None) == []
    assert input_advice(0.62)[0].startswith("62 % of the inputs are the same in every image; ")
