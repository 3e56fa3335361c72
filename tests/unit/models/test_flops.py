"""Tests of fcnet.models.flops: the counts agree with a step that runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import fcnet
from fcnet.losses import CrossEntropy
from fcnet.models.flops import DeviceSpec, step_cost, training_hours
from fcnet.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
WIDTHS = [[12, 10], [12, 1], [30, 7, 5], [64, 32, 16, 8, 3], [5, 20, 1]]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_and_operations_equal_those_of_a_step_that_runs(widths: list[int], *, bias: bool) -> None:
    model = fcnet.MLP(widths[0], widths[1:-1], max(widths[-1], 2), bias=bias)
    x, labels = torch.rand(6, widths[0]), torch.zeros(6, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        CrossEntropy()(model(x), labels).backward()
    cost = step_cost(widths, 6, bias=bias)
    assert cost.flops == counter.get_total_flops()
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_counting_imagenet_needs_no_tensor_of_its_size() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(3 * 224 * 224, 21_841)
        x = torch.empty(4096, 3 * 224 * 224)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    cost = step_cost([3 * 224 * 224, 21_841], 4096)
    assert (cost.flops, cost.parameters) == (counter.get_total_flops(), 3_287_703_889)


def test_bytes_cover_the_factors_and_result_of_each_product_and_the_optimizers_pass() -> None:
    # One layer of 3 units over 5 inputs and 7 examples: A 35, W 15, Z 21 numbers; 15 weights and 3 b.
    forward = weights = 2 * (35 + 15 + 21)
    adamw, sgd = 18 * (2 + 2 + 4 * 3 * 2), 18 * (2 + 2 + 4 * 2)
    assert step_cost([5, 3], 7).bytes_moved == forward + weights + adamw
    assert step_cost([5, 3], 7, num_moments=0).bytes_moved == forward + weights + sgd
    # A second layer of 2 units: three products over 3 inputs.
    second = 3 * 2 * (7 * 3 + 3 * 2 + 7 * 2)
    assert step_cost([5, 3, 2], 7, num_moments=0).bytes_moved == forward + weights + second + (18 + 8) * 12


def test_a_step_takes_as_long_as_its_operations_or_its_bytes() -> None:
    unlimited = 1e300
    by_arithmetic = DeviceSpec(flops=10.0, memory_bandwidth=unlimited, link_bandwidth=unlimited)
    by_memory = DeviceSpec(flops=unlimited, memory_bandwidth=10.0, link_bandwidth=unlimited)
    by_network = DeviceSpec(flops=unlimited, memory_bandwidth=unlimited, link_bandwidth=10.0)
    widths = [50, 30, 20]
    plain = step_cost(widths, 8)
    assert plain.seconds(by_arithmetic) == pytest.approx(plain.flops / 10)
    assert plain.seconds(by_memory) == pytest.approx(plain.bytes_moved / 10)
    assert plain.seconds(by_network) == pytest.approx(0.0)
    four = step_cost(widths, 8, num_devices=4)
    assert four.seconds(by_network) == pytest.approx(four.bytes_sent / 10)


def test_devices_share_the_examples_and_all_reduce_their_gradients_in_a_ring() -> None:
    alone, four = step_cost([50, 30, 20], 2), step_cost([50, 30, 20], 8, num_devices=4)
    assert (four.flops, four.bytes_moved, four.parameters) == (alone.flops, alone.bytes_moved, alone.parameters)
    # Three of four parts, once to sum them and once to distribute the sums, at two bytes per value.
    assert (alone.bytes_sent, four.bytes_sent) == (0.0, 2 * 3 / 4 * 2 * alone.parameters)
    device = DeviceSpec(flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e9)
    assert four.seconds(device) > alone.seconds(device)


def test_hours_count_the_last_batch_as_a_full_one() -> None:
    cost, device = step_cost([50, 10], 4), DeviceSpec(flops=1.0, memory_bandwidth=1e300, link_bandwidth=1.0)
    hours = training_hours(cost, device, num_images=10, batch_size=4, epochs=5)
    assert hours * 3600 == pytest.approx(5 * 3 * cost.flops)


@pytest.mark.parametrize(
    ("widths", "batch_size", "settings", "message"),
    [
        ([5], 4, {}, r"widths must be at least two positive numbers, n\[0\] to n\[L\], got \[5\]"),
        ([5, 0], 4, {}, r"widths must be at least two positive numbers, n\[0\] to n\[L\], got \[5, 0\]"),
        ([5, 2], 0, {}, r"batch_size must be a multiple of num_devices \(1\), got 0"),
        ([5, 2], 6, {"num_devices": 4}, r"batch_size must be a multiple of num_devices \(4\), got 6"),
        ([5, 2], 6, {"num_devices": 0}, r"batch_size must be a multiple of num_devices \(0\), got 6"),
    ],
)
def test_an_argument_out_of_its_range_is_an_error(
    widths: list[int], batch_size: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        step_cost(widths, batch_size, **settings)


def test_the_tables_of_the_outlook_are_the_output_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "scripts" / "outlook.py"))["main"]
    assert main() == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "outlook.md").read_text(encoding="utf-8")
