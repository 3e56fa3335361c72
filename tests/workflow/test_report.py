"""Reports of one run and of several: their contents, and that a failing report never costs a run."""

from __future__ import annotations

import math
import os
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import fcnet
from fcnet import train
from fcnet.config.presets import list_presets
from fcnet.config.toml import dump_config, load_config
from fcnet.data.sources import digits
from fcnet.data.store.store import open_store
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.metrics import mcnemar_test
from fcnet.report import __main__ as report
from fcnet.runtime.errors import UserError
from tests.helpers import read_json_lines, read_records, read_summary, set_flags

LAYER = {
    "layer": 1,
    "units": 16,
    "dead": 0.41,
    "saturated": None,
    "activation_mean": 0.1,
    "activation_std": 0.9,
    "histogram": {"low": -1.0, "high": 4.0, "counts": [3, *[1] * 31]},
    "weight_norm": 12.3,
    "gradient_norm": 0.02,
    "effective_rank": 13.7,
}
ADVICE = "layer 1: 41% of the units are dead; try leaky_relu or a smaller learning rate"


class ParsedPage(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self._skipping = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skipping = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._skipping = False

    def handle_data(self, data: str) -> None:
        if not self._skipping and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def train_run(out: Path, *changes: str) -> Path:
    flags = set_flags("model.hidden=[16]", *changes)
    assert train.main(["--config", str(list_presets()["digits"]), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        threads = torch.get_num_threads()
        finished = (
            train_run(folder / "wide", "train.epochs=3"),
            train_run(folder / "line", "train.epochs=2", "model.hidden=[]"),
        )
        torch.set_num_threads(threads)
    return finished


@pytest.fixture(autouse=True)
def cache(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(runs[0].parent / "cache"))


@pytest.fixture
def run_copy(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / "copy"))


def test_a_run_without_diagnostics_has_a_note(run_copy: Path) -> None:
    Run(run_copy).write_snapshots([])
    report.main([str(run_copy)])
    assert "The run has no diagnostics (diagnostics.jsonl)." in ParsedPage(run_copy / "report.html").text


def test_training_ends_with_a_report(runs: tuple[Path, Path]) -> None:
    page, summary = ParsedPage(runs[0] / "report.html"), read_summary(runs[0])
    low, high = summary["test_interval"]
    images_per_second = statistics.median(record["images_per_second"] for record in read_records(runs[0]))
    for text in (
        f"{summary['test_accuracy']:.2%}",
        f"95% interval {low:.2%} to {high:.2%}",
        f"{summary['parameters']:,}",
        "layers 64-16-10, relu, batch norm",
        "digits: 1,294 training, 143 validation and 360 test images of shape 1 × 8 × 8 in 10 classes",
        summary["platform"],
        f"Median over epochs: {images_per_second:,.0f} images per second.",
        summary["processor"],
    ):
        assert text in page.text
    for layer in read_json_lines(runs[0] / "diagnostics.jsonl")[-1]["layers"]:
        assert f"{layer['layer']}\n{layer['units']}\n" in page.text
        assert f"{layer['weight_norm']:.3g}" in page.text
    assert "no diagnostics" not in page.text
    changed, defaults = page.text.split("settings with the default\n")
    for setting in ("model.hidden\n[16]\n--set", "train.epochs\n3\n--set", "data.augment.shift\n1\npreset digits"):
        assert setting in changed
    assert "model.dropout\n0.0\ndefault" in defaults
    (command,) = read_json_lines(runs[0] / "commands.jsonl")
    for text in (str(runs[0]), command["command"], command["time"].replace("T", " ")[:16]):
        assert text in page.text
    assert "1\nDense, BatchNorm, relu\n(B, 16)\n1,056\n2\nDense\n(B, 10)\n170\ntotal\n1,226" in page.text
    for record in read_records(runs[0]):
        assert f"epoch {record['epoch']}: training {record['train_loss']:.4g}, validation" in str(page.all("svg"))


def test_the_confusion_matrix_counts_the_models_predictions(runs: tuple[Path, Path]) -> None:
    store = open_store(digits())
    predicted = fcnet.load(runs[0]).predict_proba(store.test.pixels).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((store.test.labels, predicted), torch.ones(360, dtype=torch.int64), accumulate=True)
    source = ParsedPage(runs[0] / "report.html").source.split('<table class="confusion')[1].split("</table>")[0]
    cells = [int(cell) for cell in re.findall(r"<td[^>]*>(\d+)</td>", source)]
    assert torch.tensor(cells).view(10, 10).equal(counts)


def test_the_mistakes_with_the_highest_loss_are_shown_with_their_probabilities(runs: tuple[Path, Path]) -> None:
    store = open_store(digits())
    probabilities = fcnet.load(runs[0]).predict_proba(store.test.pixels)
    wrong = (probabilities.argmax(1) != store.test.labels).nonzero().squeeze(1)
    truths = probabilities.gather(1, store.test.labels[:, None])[:, 0]
    worst = int(wrong[truths[wrong].argmin()])
    truth, predicted = int(store.test.labels[worst]), int(probabilities[worst].argmax())
    page = ParsedPage(runs[0] / "report.html")
    first = next(image for image in page.all("img") if "test image" in str(image["alt"]))
    assert first["alt"] == f"test image {worst}, {truth}, predicted as {predicted}"
    caption = [
        f"predicted {predicted}: {probabilities[worst, predicted]:.1%}",
        f"true class {truth}: {probabilities[worst, truth]:.1%}",
        f"loss {-math.log(probabilities[worst, truth]):.3g}",
        f"test image {worst}",
    ]
    assert "\n".join(caption) in page.text


@pytest.mark.parametrize("number", [1, 2])
def test_a_page_is_self_contained_and_accessible(number: int, runs: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert report.main([*map(str, runs[:number]), "--out", str(file)]) == 0
    page = ParsedPage(file)
    assert file.stat().st_size < 3_000_000
    for tag, attrs in page.elements:
        assert tag not in {"iframe", "object", "embed", "form", "audio", "video"}
        for name in ("src", "href", "srcset", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{each}" for each in ids}
    assert [tag for tag, _ in page.elements if tag == "h1"] == ["h1"]
    assert all(head.get("scope") for head in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_a_report_is_reproducible(run_copy: Path) -> None:
    pages = []
    for _ in range(2):
        report.main([str(run_copy)])
        pages.append((run_copy / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_run_without_stored_predictions_is_evaluated_again(run_copy: Path) -> None:
    report.main([str(run_copy)])
    with_predictions = ParsedPage(run_copy / "report.html").text
    (run_copy / "predictions.json").unlink()
    report.main([str(run_copy)])
    assert ParsedPage(run_copy / "report.html").text == with_predictions


def test_damaged_predictions_are_reported_and_not_used(run_copy: Path) -> None:
    (run_copy / "predictions.safetensors").write_bytes(b"x")
    report.main([str(run_copy)])
    page = ParsedPage(run_copy / "report.html")
    assert re.search(r"stored predictions unavailable: .*predictions\.safetensors is damaged", page.text)
    assert f"{read_summary(run_copy)['test_accuracy']:.2%}" in page.text


def test_two_runs_are_compared_side_by_side(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    report.main([str(run) for run in runs])
    assert capsys.readouterr().out == "written to report.html\n"
    page = ParsedPage(tmp_path / "report.html")
    store = open_store(digits())
    correct = [fcnet.load(run).predict_proba(store.test.pixels).argmax(1) == store.test.labels for run in runs]
    only = [int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())]
    p = mcnemar_test(*only)
    p_text = "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"
    difference = f"{(only[1] - only[0]) / 3.6:+.2f} points".replace("-", "−")
    row = "\n".join(["wide", "line", *map(str, only), difference, p_text, p_text])
    assert f"{row}\n{'wide is better' if p < 0.05 else 'no significant difference'}" in page.text
    highlighted = re.findall(r'<tr class="highlight"><th scope="row">([\w.]+)', page.source)
    assert sorted(highlighted) == ["model.hidden", "train.epochs"]
    assert page.texts.count("wide") >= 8


def test_a_report_without_test_images_has_a_note_and_everything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.array(["<b>ant</b>", "bee & co", "'cat'"])
    arrays = {
        f"{axis}_{part}": rng.integers(256 if axis == "x" else 3, size=(count, 4, 4)[: 3 if axis == "x" else 1])
        for part, count in (("train", 30), ("test", 12))
        for axis in "xy"
    }
    np.savez(tmp_path / "my.npz", classes=names, **{k: v.astype(np.uint8) for k, v in arrays.items()})  # type: ignore[arg-type]
    run = train_run(
        tmp_path / "run", "data.source=arrays", f"data.path={tmp_path / 'my.npz'}", "train.epochs=1", "data.augment={}"
    )
    page = ParsedPage(run / "report.html")
    assert "<b>ant</b>" in page.texts
    assert "<b>ant" not in page.source
    images = [image for image in page.all("img") if "test image" in str(image["alt"])]
    assert len(images) == 12
    (tmp_path / "my.npz").unlink()
    before = (run / "report.html").read_bytes()
    report.main([str(run)])
    assert (run / "report.html").read_bytes() == before  # the cache has the images
    shutil.rmtree(os.environ["FCNET_CACHE"])
    report.main([str(run)])
    without = ParsedPage(run / "report.html")
    assert "test images unavailable: the images that the model was trained on are not in the cache" in without.text
    assert not Path(os.environ["FCNET_CACHE"]).exists()
    assert not [image for image in without.all("img") if "test image" in str(image["alt"])]
    captions, captions_without = (
        {text for text in each.texts if text.startswith("predicted ")} for each in (page, without)
    )
    assert captions == captions_without


@pytest.mark.parametrize("num_classes", [2, 30, 31])
def test_more_than_thirty_classes_have_a_drawing_in_place_of_the_table(num_classes: int, tmp_path: Path) -> None:
    changes = ["data.source=synthetic", "data.shape=[1,3,3]", f"data.num_classes={num_classes}", "data.augment={}"]
    run = train_run(tmp_path / "run", *changes, "data.train_size=200", "data.test_size=90", "train.epochs=1")
    page = ParsedPage(run / "report.html")
    assert ('<table class="confusion' in page.source) == (num_classes <= 30)
    assert ('<div class="heat-map">' in page.source) == (num_classes > 30)
    assert "Most confused pairs" in page.texts


def test_diagnostics_snapshots_are_shown(run_copy: Path) -> None:
    before = {
        "epoch": 0,
        "step": 0,
        "images": 256,
        "dead_inputs": None,
        "layers": [LAYER | {"dead": 0.0}],
        "warnings": [],
    }
    after = before | {"epoch": 3, "step": 63, "layers": [LAYER], "warnings": [ADVICE]}
    Run(run_copy).write_snapshots([before, after])
    report.main([str(run_copy)])
    page = ParsedPage(run_copy / "report.html")
    assert "1\n16\n41.00%\n–\n0.1 ± 0.9\n12.3\n0.02\n13.7" in page.text
    assert ADVICE in page.texts
    labels = str(page.all("svg"))
    assert "epoch 0: layer 1 0.00%" in labels
    assert "epoch 3: layer 1 41.00%" in labels
    assert 'class="outline"' in page.source
    assert "Saturated units" not in page.text


def test_an_unfinished_run_has_learning_curves_and_no_test_results(tmp_path: Path) -> None:
    config = load_config(list_presets()["digits"], ["train.epochs=5", "model.hidden=[16]"])
    run = Run.create(tmp_path / "run", "run", dump_config(config))
    experiment = build(config, torch.device("cpu"))
    with pytest.raises(Stopped):
        list(run_experiment(experiment, run, save_seconds=0.0, stop=lambda: experiment.training.epoch == 2))
    assert not (run.path / "report.html").exists()
    report.main([str(run.path)])
    page = ParsedPage(run.path / "report.html")
    assert "the run is not finished; the test set is evaluated at its end" in page.texts
    assert "2 of 5" in page.texts
    assert "epoch 2: training" in str(page.all("svg"))
    assert "Classification report" not in page.text
    assert "Before training" in page.texts
    assert "At the end of training" not in page.texts


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug\nin two lines")

    monkeypatch.setattr("fcnet.report.page.write_report", fail)
    run = train_run(tmp_path / "my run", "train.epochs=1")
    command = f"python -m fcnet.report '{run}'"
    line = f"writing the report failed (KeyError: 'a bug\\nin two lines'); to try again, run {command}"
    assert read_summary(run)["warnings"][-1] == line
    assert f"\nnote: {line}\ntest accuracy" in capsys.readouterr().out
    assert fcnet.load(run).classes == tuple("0123456789")
    monkeypatch.undo()
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    assert report.main([str(run)]) == 0
    assert line in ParsedPage(run / "report.html").text


def test_resuming_a_finished_run_writes_a_missing_report_and_missing_mistakes(run_copy: Path) -> None:
    (run_copy / "report.html").unlink()
    mistakes = (run_copy / "mistakes.csv").read_bytes()
    (run_copy / "mistakes.csv").unlink()
    (run_copy / ".report.html.abcdefgh.tmp").mkdir()
    (run_copy / ".report.html.abcdefgh.tmp" / "report.html").write_text("half of a page")
    assert train.main(["--resume", "--out", str(run_copy)]) == 0
    assert ParsedPage(run_copy / "report.html").all("h1")
    assert (run_copy / "mistakes.csv").read_bytes() == mistakes
    assert not list(run_copy.glob(".*"))


def test_each_user_error_is_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, page = str(runs[0]), str(tmp_path / "page.html")
    for arguments, message in (
        ([str(tmp_path)], f"RUN must be a run folder, got {tmp_path}: it holds no config.toml"),
        (
            [run, str(tmp_path / "no"), "--out", page],
            f"RUN must be a run folder, got {tmp_path / 'no'}: no such folder",
        ),
        ([run, "--out", str(tmp_path)], f"--out must be a file, got the folder {tmp_path}"),
        ([run, "--out", "no/page.html"], "--out must be in an existing folder, got no/page.html"),
        ([str(tmp_path / "gone")], f"RUN must be a run folder, got {tmp_path / 'gone'}: no such folder"),
        ([], "RUN is missing: python -m fcnet.report RUN"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            report.main(arguments)
    assert not list(tmp_path.iterdir())
