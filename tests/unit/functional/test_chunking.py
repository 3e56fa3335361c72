"""fcnet.functional.chunking: chunks of rows change no result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.functional import chunking
from tests.unit.functional.helpers import make_options, random_labels, random_tensor, value_and_grads, without_classes


@pytest.mark.parametrize("case", [{}, {"weight": True}, {"label_smoothing": 0.1}, {"reduction": "none"}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(50, 4), (7, 4, 3, 2)], ids=str)
def test_chunks_of_rows_change_no_bit_of_the_cross_entropy(
    shape: tuple[int, ...], soft: bool, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = random_tensor(*shape, dtype=torch.float32), random_labels(*without_classes(shape), num_classes=4)
    y[0] = -100
    target = torch.softmax(random_tensor(*shape, seed=1), 1).float() if soft else y

    def evaluate() -> list[Tensor]:
        return value_and_grads(lambda x: F.cross_entropy(x, target, **make_options(case, torch.float32)), x)

    whole = evaluate()
    monkeypatch.setattr(chunking, "_CHUNK_ELEMENTS", 12)
    assert_close(evaluate(), whole, rtol=0, atol=0)


def test_results_of_all_chunks_are_concatenated_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "_CHUNK_ELEMENTS", 8)
    x, y, sizes = random_tensor(7, 4), torch.arange(7), []

    def step(x: Tensor, y: Tensor, missing: Tensor | None) -> tuple[Tensor, Tensor]:
        assert missing is None
        sizes.append(len(x))
        return 2.0 * x, y

    doubled, same = chunking.map_chunks(step, 1, x, y, None)
    assert sizes == [2, 2, 2, 1]
    assert_close((doubled, same), (2.0 * x, y), rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "dim", "device"), [(2, 1, "cpu"), (7, 0, "cpu"), (7, 1, "meta")])
def test_few_elements_classes_first_and_other_devices_take_one_call(
    rows: int, dim: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "_CHUNK_ELEMENTS", 8)
    sizes = []

    def step(x: Tensor) -> tuple[Tensor]:
        sizes.append(len(x))
        return (x,)

    chunking.map_chunks(step, dim, torch.zeros(rows, 4, device=device))
    assert sizes == [rows]
