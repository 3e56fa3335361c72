"""Tests of fcnet.runtime.seeds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fcnet.runtime.seeds import derive_seed, generator


@pytest.mark.parametrize(
    ("seed", "purpose", "derived"),
    [
        (0, (), 6711488920161924273),
        (0, ("order", 1), 6904529858814704759),
        (2**63 - 1, ("dropout", 7, 0), 5908777167067864152),
    ],
)
def test_a_purpose_has_the_same_seed_in_every_process_and_version(
    seed: int, purpose: tuple[str | int, ...], derived: int
) -> None:
    assert derive_seed(seed, *purpose) == derived


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["order", "augment"]), st.integers(0, 5)), unique=True))
def test_different_purposes_have_different_seeds(purposes: list[tuple[int, str, int]]) -> None:
    seeds = [derive_seed(seed, purpose, epoch) for seed, purpose, epoch in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_parts_of_a_purpose_are_kept_apart() -> None:
    purposes: list[tuple[str | int, ...]] = [(1,), ("1",), ("ab",), ("a", "b"), ("b", "a"), (11,), (1, 1), ()]
    assert len({derive_seed(0, *purpose) for purpose in purposes}) == len(purposes)
    assert derive_seed(1, 1) != derive_seed(11)


def test_a_generator_starts_from_the_derived_seed() -> None:
    draws = torch.rand(5, generator=generator(3, "order", 1))
    assert_close(
        draws, torch.rand(5, generator=torch.Generator().manual_seed(derive_seed(3, "order", 1))), rtol=0, atol=0
    )
    assert_close(draws, torch.rand(5, generator=generator(3, "order", 1)), rtol=0, atol=0)


def test_drawing_leaves_the_default_generator_of_torch_unchanged() -> None:
    before = torch.get_rng_state()
    torch.rand(5, generator=generator(4, "augment"))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
