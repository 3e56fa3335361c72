"""Tests of fcnet.linear_model.feature_blocks: standardised features, however they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fcnet.linear_model import feature_blocks
from fcnet.linear_model.feature_blocks import DenseBlock, FeatureBlocks

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def draw(rows: int = 50, columns: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    offset, scale = torch.tensor([0.0, 5.0, -3.0, 0.1]), torch.tensor([1.0, 0.1, 30.0, 1e-3])
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (x * scale[:columns] + offset[:columns]).to(dtype)


def standardised(x: Tensor, weight: Tensor) -> Tensor:
    """Returns (x − mean) / std in float64, by torch's own variance of repeated rows."""
    repeated = x.double().repeat_interleave(weight.long(), 0)
    std, mean = torch.std_mean(repeated, 0, correction=0)
    return (x.double() - mean) / std


def read(features: FeatureBlocks, dtype: torch.dtype, **options: Any) -> Tensor:
    """Returns all blocks below each other, whose slices must be the rows in order."""
    parts, stop = [], 0
    for rows, block in features.blocks(dtype, **options):
        assert rows.start == stop
        stop = rows.stop
        parts.append(block.to_dense())
        assert parts[-1].dtype == dtype
    assert stop == features.num_rows
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        *((dtype, "tensor") for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        *((dtype, "memory map") for dtype in (torch.float16, torch.float32, torch.float64)),
    ],
)
def test_features_of_every_dtype_are_standardised_by_their_own_values(
    dtype: torch.dtype, kind: str, tmp_path: Path
) -> None:
    x: Any = draw(dtype=dtype)
    weight = torch.ones(len(x)).double()
    expected = standardised(x, weight)
    if kind == "memory map":
        np.save(tmp_path / "x.npy", x.numpy())
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    features = FeatureBlocks(x, weight, center=True, device=CPU)
    # The mean of narrower dtypes is rounded to float32.
    assert_close(read(features, torch.float64), expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-5)
    assert_close(read(features, torch.float32).double(), expected, rtol=1e-5, atol=2e-5)


def test_all_dtypes_and_both_precisions_subtract_and_divide_by_the_same() -> None:
    x = draw(dtype=torch.float16)
    weight = torch.ones(len(x)).double()
    blocks = [FeatureBlocks(x.to(dtype), weight, center=True, device=CPU) for dtype in (torch.float16, torch.float32)]
    assert torch.equal(blocks[0].mean, blocks[1].mean)
    assert torch.equal(blocks[0].std, blocks[1].std)
    assert torch.equal(read(blocks[0], torch.float64), read(blocks[1], torch.float64))
    assert torch.equal(blocks[0].mean, blocks[0].mean.float().double())


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", ">f4", ">f8", "?"])
def test_memory_maps_of_other_numbers_are_converted_block_by_block(dtype: str, tmp_path: Path) -> None:
    values = np.arange(24).reshape(6, 4).astype(dtype)
    values[0] = 0
    np.save(tmp_path / "x.npy", values)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    features = FeatureBlocks(x, torch.ones(6).double(), center=True, device=CPU)
    assert_close(
        read(features, torch.float64) * features.std + features.mean, torch.from_numpy(values.astype(np.float64))
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1, -3e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_columns_become_0(dtype: torch.dtype, value: float) -> None:
    x = torch.full((1001, 2), value, dtype=dtype)
    x[:, 1] = torch.arange(1001)
    weight = torch.rand(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = FeatureBlocks(x, weight, center=True, device=CPU)
    assert features.std[0] == 1.0
    assert features.mean[0] == x[0, 0]
    for precision in (torch.float32, torch.float64):
        assert bool((read(features, precision)[:, 0] == 0.0).all())


def test_a_column_that_is_not_centred_keeps_its_offset() -> None:
    x = draw()
    x[:, 0] = 7.0
    features = FeatureBlocks(x, torch.ones(50).double(), center=False, device=CPU)
    assert features.mean.tolist() == [0.0] * 4
    assert_close(read(features, torch.float64), x / torch.cat([torch.ones(1), x[:, 1:].std(0, correction=0)]))


@pytest.mark.parametrize("scale", [1e-5, 1e-2, 1.0])
def test_a_small_variation_around_a_huge_offset_keeps_its_digits(scale: float) -> None:
    pattern = draw(columns=1).expand(50, 2)
    x = 1e8 + scale * pattern
    variation = x - 1e8  # exact
    features = FeatureBlocks(x, torch.ones(50).double(), center=True, device=CPU)
    expected = standardised(variation, torch.ones(50))
    assert_close(read(features, torch.float64), expected, rtol=0, atol=2e-8 / scale)
    assert_close(features.std, variation.std(0, correction=0), rtol=1e-8, atol=0)


def test_the_standard_deviation_is_around_the_mean_also_where_float32_cannot_hold_the_mean() -> None:
    x = torch.tensor([[1e8], [1e8 + 8.0]])  # neighbours in float32
    features = FeatureBlocks(x, torch.ones(2).double(), center=True, device=CPU)
    assert features.std.item() == 4.0
    difference = read(features, torch.float32)
    assert (difference[1] - difference[0]).item() == 2.0


def test_weights_are_repetitions_and_rows_without_weight_do_not_count() -> None:
    x = draw(6)
    x[5] = 1e30
    weight = torch.tensor([1.0, 3.0, 0.0, 2.0, 1.0, 0.0]).double()
    features = FeatureBlocks(x, weight, center=True, device=CPU)
    assert_close(read(features, torch.float64), standardised(x, weight))
    x[[0, 1, 3, 4], 2] = 0.1
    features = FeatureBlocks(x, weight, center=True, device=CPU)
    assert features.std[2] == 1.0
    assert bool((read(features, torch.float64)[[0, 1, 3, 4], 2] == 0.0).all())
    x[0, 2], weight[:2] = 1e3, torch.tensor([0.0, 0.3])  # the first row has no weight either
    assert FeatureBlocks(x, weight, center=True, device=CPU).std[2] == 1.0


@pytest.mark.parametrize("kind", ["tensor", "float16", "memory map"])
def test_some_rows_are_as_if_they_were_all(kind: str, tmp_path: Path) -> None:
    chosen = torch.tensor([1, 2, 30, 49])
    for rows in (chosen, chosen[:1]):
        x: Any = draw(dtype=torch.float16 if kind == "float16" else torch.float64)
        weight = torch.ones(len(rows)).double()
        expected = FeatureBlocks(x[rows], weight, center=True, device=CPU)
        if kind == "memory map":
            np.save(tmp_path / "x.npy", x.numpy())
            x = np.load(tmp_path / "x.npy", mmap_mode="r")
        features = FeatureBlocks(x, weight, center=True, device=CPU, rows=rows)
        assert features.num_rows == len(rows)
        assert torch.equal(features.std, expected.std)
        assert torch.equal(read(features, torch.float64), read(expected, torch.float64))
        assert torch.equal(read(features, torch.float32), read(expected, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1000])
def test_blocks_need_not_divide_the_rows(dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = draw(rows, dtype=dtype), torch.ones(rows).double()
    whole = read(FeatureBlocks(x, weight, center=True, device=CPU), torch.float64)
    monkeypatch.setattr(feature_blocks, "_BLOCK_VALUES", 1)
    monkeypatch.setattr(feature_blocks, "_LEAST_ROWS", 256)
    features = FeatureBlocks(x, weight, center=True, device=CPU)
    assert_close(read(features, torch.float64), whole, rtol=1e-12, atol=1e-12)
    sizes = [rows.stop - rows.start for rows, _ in features.blocks(torch.float32)]
    assert sizes == [256] * (rows // 256) + ([rows % 256] if rows % 256 else [])


def test_wide_products_get_fewer_rows() -> None:
    features = FeatureBlocks(draw(5000), torch.ones(5000).double(), center=True, device=CPU)
    assert [rows for rows, _ in features.blocks(torch.float32, num_columns=4)] == [slice(0, 5000)]
    starts = [rows.start for rows, _ in features.blocks(torch.float32, num_columns=1 << 11)]
    assert starts == [0, 1024, 2048, 3072, 4096]
    assert torch.equal(read(features, torch.float32, num_columns=1 << 11), read(features, torch.float32))


def test_steps_leave_rows_out_evenly() -> None:
    features = FeatureBlocks(draw(), torch.ones(50).double(), center=True, device=CPU)
    ((rows, block),) = features.blocks(torch.float32, step=7)
    assert rows == slice(0, 50)
    assert torch.equal(block.to_dense(), read(features, torch.float32)[::7])


def test_rows_that_are_left_out_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureBlocks(draw(dtype=torch.float16), torch.ones(50).double(), center=True, device=CPU)
    sizes, convert = [], feature_blocks.to_floating

    def note(values: Any) -> Tensor:
        sizes.append(len(values))
        return convert(values)

    monkeypatch.setattr(feature_blocks, "to_floating", note)
    ((_, block),) = features.blocks(torch.float32, step=7)
    assert sizes == [8]
    assert torch.equal(block.to_dense(), read(features, torch.float32)[::7])


def test_only_wide_features_in_memory_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(50).double()
    np.save(tmp_path / "x.npy", draw().numpy())

    def is_copied(x: Any) -> bool:
        features = FeatureBlocks(x, weight, center=True, device=CPU)
        first, second = (next(features.blocks(torch.float32))[1].to_dense() for _ in range(2))
        return first.data_ptr() == second.data_ptr()

    assert is_copied(draw())
    assert is_copied(draw(dtype=torch.float32))
    assert not is_copied(draw(dtype=torch.float16))
    assert not is_copied(np.load(tmp_path / "x.npy", mmap_mode="r"))
    monkeypatch.setattr(feature_blocks, "free_bytes", lambda _: 4 * (4 * 50 * 4 - 1))
    assert not is_copied(draw())


def test_the_features_themselves_do_not_change(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", draw().numpy())
    for x in (draw(), draw(dtype=torch.float16), np.load(tmp_path / "x.npy", mmap_mode="r+")):
        before = np.asarray(x).copy()
        features = FeatureBlocks(x, torch.ones(50).double(), center=False, device=CPU)
        for dtype in (torch.float32, torch.float64):
            read(features, dtype)
        np.testing.assert_array_equal(np.asarray(x), before)


def test_rows_of_all_ranks_are_standardised_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks in turn: the sums of the other are added where a process group would."""
    x, weight = draw(), torch.ones(50).double()
    whole = FeatureBlocks(x, weight, center=True, device=CPU)
    monkeypatch.setattr(feature_blocks, "world_size", lambda: 2)
    sums: list[list[Tensor]] = [[], []]
    for _ in range(8):  # each round knows one more sum of the other rank
        blocks = []
        for own, part in enumerate((slice(0, 20), slice(20, 50))):
            calls = iter(range(100))
            mine: list[Tensor] = []

            def add(
                tensor: Tensor, own: int = own, calls: Any = calls, mine: list[Tensor] = mine, sums: Any = tuple(sums)
            ) -> Tensor:
                call = next(calls)
                mine.append(tensor.clone())
                other = sums[1 - own]
                return tensor.add_(other[call]) if call < len(other) else tensor

            monkeypatch.setattr(feature_blocks, "rank", lambda own=own: own)
            monkeypatch.setattr(feature_blocks, "all_reduce", add)
            blocks.append(FeatureBlocks(x[part], weight[part], center=True, device=CPU))
            sums[own] = mine
    for block in blocks:
        assert_close(block.mean, whole.mean, rtol=1e-12, atol=1e-12)
        assert_close(block.std, whole.std, rtol=1e-12, atol=0)


def test_a_block_multiplies() -> None:
    x = draw()
    block, weights, residuals = DenseBlock(x), torch.ones(3, 4).double(), torch.ones(2, 50).double()
    intercepts = torch.tensor([1.0, 2.0, 3.0]).double()
    assert_close(block.forward(weights), x.sum(1).expand(3, 50))
    assert_close(block.forward(weights, intercepts), x.sum(1) + intercepts[:, None])
    assert_close(block.adjoint(residuals), x.sum(0).expand(2, 4))
    assert_close(block.square_sums(torch.arange(50).double()), (torch.arange(50)[:, None] * x**2).sum(0))
