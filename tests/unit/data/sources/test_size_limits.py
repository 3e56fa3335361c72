"""Tests of fcnet.data.sources.size_limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcnet.data.sources import size_limits
from fcnet.data.sources.size_limits import check_fits_memory, expanded_limit
from fcnet.runtime.errors import UserError


@pytest.mark.parametrize(
    ("size", "limit"), [(0, 2**28), (2**28 // 100, 2**28), (2**28 // 100 + 1, 268435500), (10**9, 10**11)]
)
def test_a_file_may_expand_to_256_mib_or_100_times_its_size(size: int, limit: int) -> None:
    assert expanded_limit(size) == limit


@pytest.mark.parametrize("free", [None, 2**30])
def test_data_of_the_free_memory_fits(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "free_bytes", lambda device: free)
    check_fits_memory(2**30, Path("x"), "buy more")


def test_larger_data_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "free_bytes", lambda device: 2**30)
    with pytest.raises(UserError) as error:
        check_fits_memory(3 * 2**30, Path("x"), "buy more")
    assert str(error.value) == "out of memory: x needs 3.0 GiB more and 1.0 GiB are free; buy more"
