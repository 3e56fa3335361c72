"""fcnet.functional.fused: when the kernels apply, and how they are launched."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional import fused


@pytest.mark.parametrize("num_classes", [1, 2, 3, 8, 10, 100, 1000, 1001, 4096, 4097, 21_841, 128_256, 128_257])
@pytest.mark.parametrize(("itemsize", "kind", "most"), [(2, 0, 4096), (2, 2, 2048), (4, 0, 2048), (4, 1, 2048)])
def test_a_short_row_takes_one_tile_wherever_in_16_bytes_it_starts(
    itemsize: int, kind: int, most: int, num_classes: int
) -> None:
    block, warps = fused._block_size(num_classes, itemsize, kind)
    group = 16 // itemsize
    head = 0 if num_classes % group == 0 else group - 1
    assert block % (32 * group) == 0
    assert block >= head + num_classes or block == most
    assert warps in (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("num_rows", "num_classes", "parts"),
    [
        (1, 10, 1),
        (1, 4095, 1),
        (1, 128_256, 16),
        (8, 128_256, 16),
        (32, 128_256, 8),
        (128, 128_256, 2),
        (129, 128_256, 1),
        (2**31 - 1, 1000, 1),
        (1, 2**26, 256),
    ],
)
def test_few_long_rows_are_shared_by_several_blocks(num_rows: int, num_classes: int, parts: int) -> None:
    """At most 256 blocks in all, a power of two for each row, at least two tiles for each."""
    assert fused._num_parts(num_rows, num_classes, fused._block_size(num_classes, 4, 0)[0]) == parts


def test_kernels_read_from_multiples_of_16_bytes() -> None:
    """A GPU reads elsewhere, or fails, where the interpreter does not."""
    for start in range(4):
        x = torch.arange(20.0)[start : start + 8].view(2, 4)
        assert fused._align(x).data_ptr() % 16 == 0
        assert_close(fused._align(x), x, rtol=0, atol=0)


def test_without_triton_or_a_compiler_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise OSError("no compiler")

    monkeypatch.setattr(fused, "_DEVICE_TYPE", "cpu")
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 3])
    expected = torch.nn.functional.cross_entropy(x, y)
    monkeypatch.setattr(fused, "_kernels", fails)
    fused._triton_works.cache_clear()
    with pytest.warns(RuntimeWarning, match="its Triton kernel fails on cpu: no compiler$"):
        assert not fused.is_supported(x, y, None)
    assert_close(F.cross_entropy(x, y), expected)
    fused._triton_works.cache_clear()


def test_a_machine_without_triton_gets_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(fused, "_kernels", fails)
    fused._triton_works.cache_clear()
    assert not fused._triton_works(torch.device("cpu"))
    fused._triton_works.cache_clear()


@pytest.mark.parametrize(("hip", "limited"), [(None, True), ("7.0", False)])
def test_only_nvidias_triton_gets_a_limit_of_registers(
    hip: str | None, limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    assert fused._register_limit() == ({"maxnreg": 96} if limited else {})


def test_importing_the_package_does_not_import_triton() -> None:
    code = "import sys, fcnet.functional; assert 'fcnet.functional.triton_kernels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
