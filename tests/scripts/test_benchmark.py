"""The judge of speed judges what it says: the same network by everybody, the products by the limit, no figure lost."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fcnet.models.flops import step_cost
from fcnet.models.mlp import num_parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)
IMAGES, BATCH = 80, 8
HIDDEN = [(), (12, 6)]
EVERYBODY = {
    "fcnet",
    "limit",
    "resident tensors",
    "DataLoader, 0 workers",
    "DataLoader, 2 workers",
    "skorch",
    "Lightning",
    "Keras",
    "MLPClassifier",
}
LINEAR_ONLY = {"SGDClassifier", "LogisticRegression"}
PACKAGES = {"skorch": "skorch", "Lightning": "lightning", "Keras": "keras"}

pytestmark = pytest.mark.usefixtures("isolated_cache")


@pytest.fixture
def benchmark(program: Callable[[str], Any]) -> Any:
    return program("benchmark")


def small(benchmark: Any, hidden: tuple[int, ...]) -> tuple[Any, Any]:
    cases = benchmark.training
    return cases.Case(hidden, BATCH, in_features=48), cases.Data.random(IMAGES, CPU, SHAPE)


def flat(parameters: Any) -> torch.Tensor:
    return torch.cat([torch.as_tensor(each).detach().flatten().double() for each in parameters])


def installed(benchmark: Any, hidden: tuple[int, ...]) -> set[str]:
    absent = benchmark.training.missing_packages(*small(benchmark, hidden))
    here = {name for name in EVERYBODY if PACKAGES.get(name) not in absent}
    return here if hidden else here | LINEAR_ONLY


@pytest.mark.parametrize("hidden", HIDDEN)
def test_everybody_trains_a_network_of_the_same_size(benchmark: Any, hidden: tuple[int, ...]) -> None:
    case, data = small(benchmark, hidden)
    entered = benchmark.training.contenders(case, data)
    assert {each.name for each in entered} == installed(benchmark, hidden)
    for each in entered:
        with benchmark.training.suppress_warnings():
            each.train()
            before = flat(each.parameters())
            each.train()
        after = flat(each.parameters())
        assert len(after) == num_parameters(case.widths), each.name
        assert bool((before != after).any()) is (each.name != "limit"), each.name
        assert bool(after.isfinite().all()), each.name
        assert each.images == IMAGES


def test_who_differs_from_the_case_says_so(benchmark: Any) -> None:
    entered = benchmark.training.contenders(*small(benchmark, ()))
    assert {each.name for each in entered if each.differs} == LINEAR_ONLY


def test_torchs_loops_learn_what_ours_learns(benchmark: Any) -> None:
    """From the same weights on one batch that is the whole set, whose order changes nothing."""
    _, data = small(benchmark, (12,))
    case = benchmark.training.Case((12,), IMAGES, in_features=48)
    entered = {each.name: each for each in benchmark.training.contenders(case, data)}
    named = [name for name in ("DataLoader, 0 workers", "resident tensors", "skorch", "Lightning") if name in entered]
    entered.get("skorch", entered["fcnet"]).train()  # makes its module
    own = [parameter.detach().clone() for parameter in benchmark.training.fcnet_contender(case, data).parameters()]
    rounds = {}
    for name in ("fcnet", *named):
        contender = benchmark.training.fcnet_contender(case, data) if name == "fcnet" else entered[name]
        with torch.no_grad():
            for parameter, value in zip(contender.parameters(), own, strict=True):
                parameter.copy_(value)
        with benchmark.training.suppress_warnings():
            contender.train()
        rounds[name] = flat(contender.parameters()) - flat(own)
    for name in set(named) - {"skorch"}:  # whose momentum is that of its first step
        torch.testing.assert_close(rounds[name], rounds["fcnet"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_limit_does_the_products_of_every_whole_batch(benchmark: Any, hidden: tuple[int, ...]) -> None:
    case, data = small(benchmark, hidden)
    limit = benchmark.training.speed_limit(case, data, 1)
    with FlopCounterMode(display=False) as counted:
        limit.train()
    assert counted.get_total_flops() == step_cost(case.widths, BATCH).flops * (IMAGES // BATCH)


def test_what_is_not_installed_is_named_and_left_out(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(benchmark.training, "FILL_SECONDS", 0.0)
    case, data = small(benchmark, (12,))
    figures = benchmark.training.compare([case], data, 2)
    assert {figure.contender for figure in figures} == EVERYBODY - set(PACKAGES)
    said = capsys.readouterr().out
    for package in PACKAGES.values():
        assert f"{package} is not installed and is left out: pip install -e '.[peers]'" in said


def test_contenders_take_turns_after_a_round_that_does_not_count(benchmark: Any) -> None:
    turns: list[str] = []
    runs = {name: lambda name=name: turns.append(name) for name in "ab"}
    times = benchmark.training.time_interleaved(runs, 3, fill_seconds=0.0, device=CPU)
    assert "".join(turns) == "ab" + "ab" * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def figures_of(benchmark: Any) -> list[Any]:
    figure = benchmark.training.Measurement
    return [
        figure("one", "fcnet", (2.0, 3.0, 10.0), "s", {"threads": 2}),
        figure("one", "limit", (1.0, 2.0, 4.0), "s", {"threads": 1}),
        figure("one", "Keras", (6.0, 3.0, 20.0), "s", note="differs"),
        figure("two", "fcnet", (5.0,), "ms", {"images/s": 12345.6, "TFLOP/s": 0.25}),
    ]


def test_a_table_holds_median_spread_and_the_ratios_within_repeats(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.training.print_measurements(figures_of(benchmark))
    assert capsys.readouterr().out.splitlines() == [
        "one",
        "",
        "|  | s | least to most | × limit | × fcnet | threads |",
        "| --- | --- | --- | --- | --- | --- |",
        "| fcnet | 3 | 2 to 10 | 2.00 | 1.00 | 2 |",
        "| limit | 2 | 1 to 4 | 1.00 | 0.50 | 1 |",
        "| Keras | 6 | 3 to 20 | 5.00 | 2.00 |  |",
        "",
        "Keras: differs",
        "",
        "two",
        "",
        "|  | ms | least to most | images/s | TFLOP/s |",
        "| --- | --- | --- | --- | --- |",
        "| fcnet | 5 | 5 to 5 | 12,346 | 0.25 |",
        "",
    ]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_line_and_a_bar_for_each_figure(
    benchmark: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = figures_of(benchmark)
    lines, drawing = tmp_path / "figures.jsonl", tmp_path / f"figures{suffix}"
    monkeypatch.setattr(benchmark, "measure", lambda _: figures)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--json", str(lines), "--plot", str(drawing)])
    assert benchmark.main() == 0
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(line["case"], line["contender"]) for line in read] == [
        (figure.case, figure.contender) for figure in figures
    ]
    for line in read:
        assert line["median"] == statistics.median(line["values"])
        assert (line["least"], line["most"]) == (min(line["values"]), max(line["values"]))
        assert line["torch"] == torch.__version__
    assert read[0]["threads"] == 2
    assert drawing.read_bytes()[:5] == {".svg": b"<?xml", ".png": b"\x89PNG\r"}[suffix]


def test_a_difference_that_falls_below_0_is_drawn_too(benchmark: Any, tmp_path: Path) -> None:
    figure = benchmark.training.Measurement("beyond", "fcnet", (-0.1, 0.2), "s")
    benchmark.plot([figure], tmp_path / "figures.svg")
    assert (tmp_path / "figures.svg").stat().st_size > 0


def test_a_plot_of_another_kind_is_refused(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--plot", "figures.gif"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "must end in .svg or .png, got figures.gif" in capsys.readouterr().err


def test_the_losses_are_measured_by_all_and_the_linear_one_beside_its_products(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = benchmark.losses
    monkeypatch.setattr(losses, "FILL_SECONDS", 0.0)
    of_logits = list(losses.measure_logits(2, sizes=((8, 3),)))
    assert {(figure.case.split(", ")[-1], figure.contender) for figure in of_logits} == set(
        itertools.product(("index", "smoothed", "soft"), ("fcnet", "torch"))
    )
    of_linear = list(losses.measure_linear(2, size=(512, 8, 64)))
    assert [figure.contender for figure in of_linear] == ["fcnet", "torch", "limit"]
    held = [next(iter(figure.extra.values())) for figure in of_linear]
    assert held[1] >= 1.0  # all logits, and their gradient


def test_the_share_of_the_bandwidth_follows_from_the_time(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = benchmark.losses
    monkeypatch.setattr(losses, "FILL_SECONDS", 0.0)
    monkeypatch.setattr(losses, "copy_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    figures = list(losses.measure_bandwidth(2, CPU, sizes=((16, 5),), precisions=(torch.float32,)))
    assert [figure.contender for figure in figures] == ["fcnet", "torch", "torch.compile", "limit"]
    share = 2 * 16 * 5 * 4 / (1e-6 * figures[0].median) / 1e9
    assert figures[0].extra["2 × logits, of copies"] == f"{share:.1%}"


def test_speeds_of_the_machine_are_of_what_they_say(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import limits

    monkeypatch.setattr(limits, "_fastest_seconds", lambda run, _: run() is not None and 0.5)
    assert limits.copy_bandwidth(CPU, num_bytes=4096) == 2 * 4096 / 0.5
    assert limits.matmul_speed(CPU, torch.float32, sizes=(8, 4)) == 2 * 8**3 / 0.5
    assert benchmark.training.copy_bandwidth is limits.copy_bandwidth


def test_the_command_is_followed_to_its_first_step_and_no_farther(
    program: Callable[[str], Any], tmp_path: Path, benchmark: Any
) -> None:
    benchmark.startup.command(tmp_path)()
    (run,) = tmp_path.glob("*/run")
    assert (run / "config.toml").is_file()
    assert not (run / "metrics.jsonl").exists()
    benchmark.startup.process(["-c", benchmark.startup.BASELINE], tmp_path)


def test_a_command_that_does_not_come_to_its_first_step_has_no_time(benchmark: Any, tmp_path: Path) -> None:
    file = benchmark.startup.first_step.__file__
    with pytest.raises(RuntimeError, match=r"exit code 2: .*nothing\.toml"):
        benchmark.startup.process([file, "--config", "nothing.toml"], tmp_path)


def test_stores_are_made_whole_by_one_process_and_by_all(benchmark: Any) -> None:
    figures = benchmark.store.compare(60, 1)
    assert [figure.contender for figure in figures] == ["fcnet", "fcnet, one process", "limit"]


def test_every_change_of_images_is_timed(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.augment, "BATCH", 4)
    monkeypatch.setattr(benchmark.augment, "BATCHES", 2)
    assert {figure.contender for figure in benchmark.augment.compare(1, CPU)} >= {
        *benchmark.augment.CHANGES,
        "plain",
        "all",
    }
