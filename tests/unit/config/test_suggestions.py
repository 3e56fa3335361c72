"""Tests of fcnet.config.suggestions."""

from __future__ import annotations

import pytest

from fcnet.config import suggestions
from fcnet.config.schema import Config
from fcnet.config.suggestions import find_key, suggest_choice, suggest_override, suggest_value
from fcnet.config.toml import flatten_config


def known_keys() -> set[str]:
    return {key for key, _ in flatten_config(Config().model_dump())} | {"data.augment"}


def test_every_synonym_means_a_known_key_and_only_one() -> None:
    assert set(suggestions._KEY_SYNONYMS) <= known_keys()
    names = [name for names in suggestions._KEY_SYNONYMS.values() for name in names.split()]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and "_" not in name for name in names)


@pytest.mark.parametrize("key", sorted(known_keys() - {"data.augment"}))
def test_a_key_is_found_in_another_section_and_with_hyphens(key: str) -> None:
    name = key.rpartition(".")[2]
    assert find_key(f"elsewhere.{name.replace('_', '-')}") == key


def test_an_unknown_name_has_no_key_and_no_override() -> None:
    assert find_key("model.zzz") is None
    assert suggest_override("zzz", "3") is None
    assert suggest_override("train", "3") is None


@pytest.mark.parametrize(
    ("value", "choices", "meant"),
    [
        ("xavier", ["auto", "he", "glorot"], "glorot"),
        ("kaiming", ["auto", "he", "glorot"], "he"),
        ("None", ["none", "batch"], "none"),
        ("bn", ["none", "batch", "layer"], "batch"),
        ("mse", ["cross_entropy", "quadratic"], "quadratic"),
        ("tanh", ["relu", "gelu", "sigmoid"], None),
        (True, ["none", "weights"], None),
    ],
)
def test_a_choice_is_found_by_another_word_or_not_at_all(value: object, choices: list[str], meant: str | None) -> None:
    assert suggest_choice(value, choices) == meant


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("tuple_type", "(512, 256)", "[512, 256]"),
        ("tuple_type", "relu", None),
        ("tuple_type", {}, None),
        ("bool_type", "maybe", None),
        ("int_type", "1e3", "1000"),
        ("int_type", 2.5, None),
        ("int_type", True, None),
        ("int_type", "nan", None),
        ("float_type", "5%", "0.05"),
        ("less_than", 1, None),
        ("less_than", 10**20, None),
    ],
)
def test_a_value_is_rewritten_only_where_its_meaning_is_plain(kind: str, value: object, form: str | None) -> None:
    assert suggest_value(kind, value) == form
