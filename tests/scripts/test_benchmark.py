"""Tests of scripts/benchmark.py."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
import types
from typing import TYPE_CHECKING, Any

import numpy as np
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
NUM_IMAGES, BATCH_SIZE = 80, 8
HIDDEN = [(), (12, 6)]
CONTENDERS = {
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
LINEAR_CONTENDERS = {"SGDClassifier", "LogisticRegression"}
PACKAGES = {"skorch": "skorch", "Lightning": "lightning", "Keras": "keras"}

pytestmark = pytest.mark.usefixtures("isolated_cache")


@pytest.fixture
def benchmark(program: Callable[[str], Any]) -> Any:
    return program("benchmark")


def make_case(benchmark: Any, hidden: tuple[int, ...]) -> tuple[Any, Any]:
    cases = benchmark.training
    return cases.Case(hidden, BATCH_SIZE, in_features=48), cases.Data.random(NUM_IMAGES, CPU, SHAPE)


def flatten(parameters: Any) -> torch.Tensor:
    return torch.cat([torch.as_tensor(each).detach().flatten().double() for each in parameters])


def list_contenders(benchmark: Any, hidden: tuple[int, ...]) -> set[str]:
    absent = benchmark.training.missing_packages(*make_case(benchmark, hidden))
    available = {name for name in CONTENDERS if PACKAGES.get(name) not in absent}
    return available if hidden else available | LINEAR_CONTENDERS


@pytest.mark.parametrize("hidden", HIDDEN)
def test_all_contenders_train_a_network_of_the_same_size(benchmark: Any, hidden: tuple[int, ...]) -> None:
    case, data = make_case(benchmark, hidden)
    contenders = benchmark.training.contenders(case, data)
    assert {each.name for each in contenders} == list_contenders(benchmark, hidden)
    for each in contenders:
        with benchmark.training.suppress_warnings():
            each.train()
            before = flatten(each.parameters())
            each.train()
        after = flatten(each.parameters())
        assert len(after) == num_parameters(case.widths), each.name
        assert bool((before != after).any()) is (each.name != "limit"), each.name
        assert bool(after.isfinite().all()), each.name
        assert each.images == NUM_IMAGES


def test_contenders_that_differ_from_the_case_are_marked(benchmark: Any) -> None:
    contenders = benchmark.training.contenders(*make_case(benchmark, ()))
    assert {each.name for each in contenders if each.differs} == LINEAR_CONTENDERS


def test_plain_torch_loops_take_the_same_steps_as_fcnet(benchmark: Any) -> None:
    """With the same weights, on a single batch, where the order of the images does not matter."""
    _, data = make_case(benchmark, (12,))
    case = benchmark.training.Case((12,), NUM_IMAGES, in_features=48)
    contenders = {each.name: each for each in benchmark.training.contenders(case, data)}
    named = [
        name for name in ("DataLoader, 0 workers", "resident tensors", "skorch", "Lightning") if name in contenders
    ]
    contenders.get("skorch", contenders["fcnet"]).train()  # creates its module
    own = [parameter.detach().clone() for parameter in benchmark.training.fcnet_contender(case, data).parameters()]
    rounds = {}
    for name in ("fcnet", *named):
        contender = benchmark.training.fcnet_contender(case, data) if name == "fcnet" else contenders[name]
        with torch.no_grad():
            for parameter, value in zip(contender.parameters(), own, strict=True):
                parameter.copy_(value)
        with benchmark.training.suppress_warnings():
            contender.train()
        rounds[name] = flatten(contender.parameters()) - flatten(own)
    for name in set(named) - {"skorch"}:  # its first call has changed its momentum
        torch.testing.assert_close(rounds[name], rounds["fcnet"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_limit_computes_the_products_of_every_full_batch(benchmark: Any, hidden: tuple[int, ...]) -> None:
    case, data = make_case(benchmark, hidden)
    limit = benchmark.training.speed_limit(case, data, 1)
    with FlopCounterMode(display=False) as counted:
        limit.train()
    assert counted.get_total_flops() == step_cost(case.widths, BATCH_SIZE).flops * (NUM_IMAGES // BATCH_SIZE)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_limit_runs_in_every_precision(benchmark: Any, hidden: tuple[int, ...], precision: torch.dtype) -> None:
    _, data = make_case(benchmark, hidden)
    limit = benchmark.training.speed_limit(benchmark.training.Case(hidden, BATCH_SIZE, precision, "sgd", 48), data, 1)
    limit.train()
    assert limit.images == NUM_IMAGES
    assert bool(flatten(parameter.float() for parameter in limit.parameters()).isfinite().all())


def test_the_limit_of_a_larger_network_takes_longer(benchmark: Any) -> None:
    _, data = make_case(benchmark, ())
    cases = [benchmark.training.Case((width,), BATCH_SIZE, in_features=48) for width in (16, 16384)]
    runs = {str(case): benchmark.training.speed_limit(case, data, 1).train for case in cases}
    small, large = benchmark.training.time_interleaved(runs, 3, fill_seconds=0.0, device=CPU).values()
    assert statistics.median(large) > 4 * statistics.median(small)


def test_packages_that_are_not_installed_are_named_and_left_out(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(benchmark.training, "FILL_SECONDS", 0.0)
    case, data = make_case(benchmark, (12,))
    figures = benchmark.training.compare([case], data, 2)
    assert {figure.contender for figure in figures} == CONTENDERS - set(PACKAGES)
    output = capsys.readouterr().out
    for package in PACKAGES.values():
        assert f"{package} is not installed and is left out: pip install -e '.[peers]'" in output


def test_repeats_are_interleaved_after_a_warm_up(benchmark: Any) -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = benchmark.training.time_interleaved(runs, 3, fill_seconds=0.0, device=CPU)
    assert "".join(calls) == "ab" + "ab" * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def make_measurements(benchmark: Any) -> list[Any]:
    figure = benchmark.training.Measurement
    return [
        figure("one", "fcnet", (2.0, 3.0, 10.0), "s", {"threads": 2}),
        figure("one", "limit", (1.0, 2.0, 4.0), "s", {"threads": 1}),
        figure("one", "Keras", (6.0, 3.0, 20.0), "s", note="differs"),
        figure("two", "fcnet", (5.0,), "ms", {"images/s": 12345.6, "TFLOP/s": 0.25}),
    ]


def test_a_table_has_median_range_and_ratios_within_repeats(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.training.print_measurements(make_measurements(benchmark))
    assert capsys.readouterr().out.splitlines() == [
        "one",
        "",
        "|  | s | range | × limit | × fcnet | threads |",
        "| --- | --- | --- | --- | --- | --- |",
        "| fcnet | 3 | 2 to 10 | 2.00 | 1.00 | 2 |",
        "| limit | 2 | 1 to 4 | 1.00 | 0.50 | 1 |",
        "| Keras | 6 | 3 to 20 | 5.00 | 2.00 |  |",
        "",
        "Keras: differs",
        "",
        "two",
        "",
        "|  | ms | range | images/s | TFLOP/s |",
        "| --- | --- | --- | --- | --- |",
        "| fcnet | 5 | 5 to 5 | 12,346 | 0.25 |",
        "",
    ]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_measurements_are_written_as_json_lines_and_a_plot(
    benchmark: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = make_measurements(benchmark)
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


def test_negative_values_can_be_plotted(benchmark: Any, tmp_path: Path) -> None:
    figure = benchmark.training.Measurement("beyond", "fcnet", (-0.1, 0.2), "s")
    benchmark.plot([figure], tmp_path / "figures.svg")
    assert (tmp_path / "figures.svg").stat().st_size > 0


def test_a_plot_of_another_format_is_refused(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--plot", "figures.gif"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "must end in .svg or .png, got figures.gif" in capsys.readouterr().err


def test_the_losses_are_measured_for_all_contenders(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = benchmark.losses
    monkeypatch.setattr(losses, "FILL_SECONDS", 0.0)
    of_logits = list(losses.measure_logits(2, sizes=((8, 3),)))
    assert {(figure.case.split(", ")[-1], figure.contender) for figure in of_logits} == set(
        itertools.product(("index", "smoothed", "soft"), ("fcnet", "torch"))
    )
    of_linear = list(losses.measure_linear(2, size=(512, 8, 64)))
    assert [figure.contender for figure in of_linear] == ["fcnet", "torch", "limit"]
    held = [next(iter(figure.extra.values())) for figure in of_linear]
    assert held[1] >= 1.0  # all logits and their gradient


def test_the_bandwidth_fraction_follows_from_the_time(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = benchmark.losses
    monkeypatch.setattr(losses, "FILL_SECONDS", 0.0)
    monkeypatch.setattr(losses, "copy_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    figures = list(losses.measure_bandwidth(2, CPU, sizes=((16, 5),), precisions=(torch.float32,)))
    assert [figure.contender for figure in figures] == ["fcnet", "torch", "torch.compile", "limit"]
    share = 2 * 16 * 5 * 4 / (1e-6 * figures[0].median) / 1e9
    assert figures[0].extra["2 × logits, of copies"] == f"{share:.1%}"


def test_the_speeds_of_the_machine_count_bytes_and_operations(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import limits

    monkeypatch.setattr(limits, "_fastest_seconds", lambda run, _: run() is not None and 0.5)
    assert limits.copy_bandwidth(CPU, num_bytes=4096) == 2 * 4096 / 0.5
    assert limits.matmul_speed(CPU, torch.float32, sizes=(8, 4)) == 2 * 8**3 / 0.5
    assert benchmark.training.copy_bandwidth is limits.copy_bandwidth


def test_the_timed_command_exits_after_its_first_step(
    program: Callable[[str], Any], tmp_path: Path, benchmark: Any
) -> None:
    benchmark.startup.command(tmp_path)()
    (run,) = tmp_path.glob("*/run")
    assert (run / "config.toml").is_file()
    assert not (run / "metrics.jsonl").exists()
    benchmark.startup.process(["-c", benchmark.startup.BASELINE], tmp_path)


def test_a_command_that_fails_before_its_first_step_is_an_error(benchmark: Any, tmp_path: Path) -> None:
    file = benchmark.startup.first_step.__file__
    with pytest.raises(RuntimeError, match=r"exit code 2: .*nothing\.toml"):
        benchmark.startup.process([file, "--config", "nothing.toml"], tmp_path)


def test_stores_are_built_by_one_process_and_by_several_and_opened(benchmark: Any) -> None:
    figures = benchmark.store.compare(60, 1)
    assert [figure.contender for figure in figures] == ["fcnet", "fcnet, one process", "limit", "fcnet", "limit"]


def test_every_augmentation_is_timed(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.augment, "BATCH_SIZE", 4)
    monkeypatch.setattr(benchmark.augment, "NUM_BATCHES", 2)
    assert {figure.contender for figure in benchmark.augment.compare(1, CPU)} >= {
        *benchmark.augment.AUGMENTATIONS,
        "plain",
        "all",
    }


def test_the_names_of_images_are_measured_against_a_store_without_names(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.names, "_in_new_process", benchmark.names.measure)
    figures = benchmark.names.compare(2000, 1)
    cases = [(each.case, each.contender) for each in figures]
    assert cases == [
        (f"{action} a store of 2,000 images", contender)
        for contender in ("fcnet", "without names")
        for action in ("building", "opening")
    ]
    with_names, without = (figures[index].extra["file MiB"] for index in (0, 2))
    counts = {"train": 1900, "test": 100}
    text = sum(len(f"{split}/n00000000/n00000000_{row}.JPEG") for split in counts for row in range(counts[split]))
    assert 2**20 * (with_names - without) == pytest.approx(text + 8 * 2000, abs=2000)  # and their checksums


def make_probe_data(benchmark: Any, num_classes: int = 3) -> Any:
    probe = benchmark.probe
    x, y = probe.synthetic_features(300, 6, num_classes)
    return probe.Data(probe.standardize(x), torch.from_numpy(y), num_classes, CPU)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_all_methods_reach_the_objective_of_scikit_learns_minimum(benchmark: Any, num_classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    probe = benchmark.probe
    data, penalties = make_probe_data(benchmark, num_classes), [0.01, 1.0]
    problem = probe.Problem(data, penalties)
    assert problem.reference_gap <= 1e-8
    x, y = data.x.double().numpy(), data.y.numpy()
    for penalty, lowest in zip(penalties, problem.lowest, strict=True):
        model = LogisticRegression(C=penalty, tol=1e-10, max_iter=1000).fit(x, y)
        losses = -np.log(model.predict_proba(x)[range(300), y]).sum()
        assert lowest == pytest.approx(penalty * losses + 0.5 * (model.coef_**2).sum(), rel=1e-9)
    for method in probe.METHODS:
        with probe.suppress_warnings():
            trial = probe.find_settings(method, problem, 100.0)
        assert len(trial.settings) == len(trial.objectives) == 2, method.name
        most = 0.2 if method.name == "AdamW heads" else 1e-6  # 100 steps are too few
        assert 0.0 <= max(problem.excesses(trial.objectives)) <= most, method.name


def test_a_solution_below_the_reference_becomes_the_lowest_objective_for_all(benchmark: Any) -> None:
    probe = benchmark.probe
    problem = probe.Problem(make_probe_data(benchmark), [0.01, 1.0])
    (minimum,) = problem.lowest[1:]
    problem.lowest[1] = 2.0 * minimum
    trial = probe.find_settings(probe.METHODS[0], problem, 100.0)
    assert problem.lowest[1] == pytest.approx(minimum, rel=1e-5)
    assert problem.excesses([minimum * 1.5], 1) == [pytest.approx(0.5, rel=1e-4)]
    problem.lowest[1] = 0.5 * minimum
    assert "1 of 2 objectives are not within 1e-06, the farthest 1.0e+00 at C = 1" in probe._describe(trial, problem)


def fake_method(benchmark: Any, needed: dict[float, float], seconds: float, *, together: bool) -> tuple[Any, Any]:
    """Returns a method whose excess is 1e-7 with the needed settings or tighter ones, its problem and its calls."""
    probe = benchmark.probe
    ladder = tuple(probe.Setting(torch.float32, value) for value in (1e-2, 1e-4, 1e-6))
    calls: list[tuple[list[float], float]] = []

    def fit(_: object, penalties: Any, settings: Any, start: Any) -> list[Any]:
        calls.append((list(penalties), settings[0].value))
        time.sleep(seconds * len(penalties))
        return [setting.value for setting in settings]

    def judge(solutions: Any, first: int) -> list[float]:
        wanted = list(needed.values())[first:]
        return [1e-7 if value <= each else 1e-3 for value, each in zip(solutions, wanted, strict=False)]

    problem = types.SimpleNamespace(
        data=None, penalties=list(needed), judge=judge, excesses=lambda objectives, first=0: objectives
    )
    return type(probe.METHODS[0])("fake", "tol", fit, ladder, together), (problem, calls)


def test_a_method_gets_the_loosest_settings_that_reach_the_objective(benchmark: Any) -> None:
    needed = {0.1: 1e-2, 1.0: 1e-6, 10.0: 1e-4, 100.0: 0.0}
    method, (problem, calls) = fake_method(benchmark, needed, 0.0, together=False)
    trial = benchmark.probe.find_settings(method, problem, 100.0)
    assert [setting.value for setting in trial.settings] == [1e-2, 1e-6, 1e-4, 1e-6]
    assert trial.objectives == [1e-7, 1e-7, 1e-7, 1e-3]
    assert [value for _, value in calls] == [1e-2, 1e-2, 1e-4, 1e-6, 1e-4, 1e-2, 1e-4, 1e-6]
    assert "not within 1e-06, the farthest 1.0e-03 at C = 100" in benchmark.probe._describe(trial, problem)
    method, (problem, calls) = fake_method(benchmark, needed, 0.0, together=True)
    trial = benchmark.probe.find_settings(method, problem, 100.0)
    assert [setting.value for setting in trial.settings] == [1e-6] * 4
    assert calls[-1] == ([0.1, 1.0, 10.0, 100.0], 1e-6)


@pytest.mark.parametrize("together", [False, True])
def test_a_method_that_is_too_slow_gets_fewer_penalties(benchmark: Any, together: bool) -> None:
    needed = dict.fromkeys((0.1, 1.0, 10.0, 100.0, 1000.0), 1e-2)
    method, (problem, _) = fake_method(benchmark, needed, 0.2, together=together)
    trial = benchmark.probe.find_settings(method, problem, 0.5)
    assert len(trial.settings) == 2
    note = benchmark.probe._describe(trial, problem)
    assert "2 of 5 penalties, those from 0.1 to 1, fit into the limit, so its ratios are lower bounds" in note


def test_a_method_that_exceeds_the_limit_gets_no_tighter_setting(benchmark: Any) -> None:
    method, (problem, calls) = fake_method(benchmark, {1.0: 0.0}, 0.1, together=True)
    trial = benchmark.probe.find_settings(method, problem, 0.05)
    assert calls == [([1.0], 1e-2)]
    assert "1 of 1 objectives are not within 1e-06" in benchmark.probe._describe(trial, problem)


def test_the_probe_benchmark_measures_seconds_and_memory(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = benchmark.probe
    monkeypatch.setattr(probe, "_in_new_process", lambda arguments: probe.fit_in_process(*arguments))
    monkeypatch.setattr(probe, "num_processors", lambda: 1)  # threads that wait for each other slow busy machines down
    x, y = probe.synthetic_features(400, 6, 3)
    np.save(tmp_path / "x_train.npy", x)
    np.save(tmp_path / "y_train.npy", y)
    flags = ["--probe", "--features", str(tmp_path), "--examples", "200", "--Cs", "1e-2..1:2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags, "--json", str(tmp_path / "lines")])
    assert benchmark.main() == 0
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    case = "200 × 6 features, 3 classes, 2 penalties"
    assert [line["case"] for line in lines[:-1]] == [f"{case} from 0.01 to 1"] * len(probe.METHODS)
    assert [line["contender"] for line in lines[:-1]] == [method.name for method in probe.METHODS]
    assert {line["penalties"] for line in lines[:-1]} == {2}
    assert lines[-1]["case"] == "peak memory above 200 × 6 features, 3 classes, 2 penalties"
    assert lines[-1]["30 floats a parameter, MiB"] == pytest.approx(30 * 4 * 2 * 3 * 7 / 2**20)
    assert "the same standardised float32 features for all" in capsys.readouterr().out


def test_peak_memory_counts_what_was_freed(benchmark: Any) -> None:
    before = benchmark.probe.peak_bytes()
    np.ones(64 << 17)  # 64 MiB
    assert benchmark.probe.peak_bytes() >= before
    assert benchmark.probe.peak_bytes() > 64 << 20


def test_penalties_are_a_list_or_a_range(benchmark: Any) -> None:
    parse = benchmark.probe.parse_penalties
    assert parse("10,0.1") == (0.1, 10.0)
    assert parse("1e-6..1e5:45") == pytest.approx(benchmark.probe.DEFAULT_CS, rel=1e-3)


def test_synthetic_labels_have_every_class_and_follow_the_features(benchmark: Any) -> None:
    x, y = benchmark.probe.synthetic_features(2000, 20, 50)
    assert set(y.tolist()) == set(range(50))
    assert np.abs(np.corrcoef(x.T) - np.eye(20)).max() > 0.1
    model = benchmark.probe.fit_path(x, y, [1.0])
    assert float(model.score(x, y)) > 0.2  # 0.02 by chance
