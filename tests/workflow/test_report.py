"""What a report says, of one run and of several, and that making it loses nothing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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
WARNING = "layer 1: 41% of the units are dead; try leaky_relu or a smaller learning rate"


class Read(HTMLParser):
    """The elements of a page, each with its attributes, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
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
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def trained(out: Path, *changes: str) -> Path:
    flags = [part for change in ("model.hidden=[16]", *changes) for part in ("--set", change)]
    assert train.main(["--config", str(list_presets()["digits"]), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        threads = torch.get_num_threads()
        found = (
            trained(folder / "wide", "train.epochs=3"),
            trained(folder / "line", "train.epochs=2", "model.hidden=[]"),
        )
        torch.set_num_threads(threads)
    return found


@pytest.fixture(autouse=True)
def cache(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNET_CACHE", str(runs[0].parent / "cache"))


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / "copy"))


def summary(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return facts


def test_a_run_that_kept_no_look_inside_says_so(copy: Path) -> None:
    (copy / "diagnostics.jsonl").unlink()
    report.main([str(copy)])
    assert "The run kept no look inside the network (diagnostics.jsonl)." in Read(copy / "report.html").text


def test_a_run_ends_with_its_report(runs: tuple[Path, Path]) -> None:
    page, facts = Read(runs[0] / "report.html"), summary(runs[0])
    low, high = facts["test_interval"]
    for said in (
        f"{facts['test_accuracy']:.2%}",
        f"95 % interval {low:.2%} to {high:.2%}",
        f"{facts['parameters']:,}",
        "layers 64-16-10, relu, batch norm",
        "digits: 1,294 training, 143 validation and 360 test images of 1 × 8 × 8 in 10 classes",
        facts["platform"],
        facts["processor"],
    ):
        assert said in page.text
    looks = [json.loads(line) for line in (runs[0] / "diagnostics.jsonl").read_text().splitlines()]
    for layer in looks[-1]["layers"]:
        assert f"{layer['layer']}\n{layer['units']}\n" in page.text
        assert f"{layer['weight_norm']:.3g}" in page.text
    assert "no look inside the network" not in page.text
    for key, value in (("model.hidden", "[16]"), ("train.epochs", "3"), ("data.augment.shift", "1")):
        assert f"{key}\n{value}\n" in page.text
    epochs = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    for record in epochs:
        assert f"epoch {record['epoch']}: training {record['train_loss']:.4g}, validation" in str(page.all("svg"))


def test_the_confusion_matrix_and_the_classes_are_those_of_the_network(runs: tuple[Path, Path]) -> None:
    store = open_store(digits())
    called = fcnet.load(runs[0]).predict_proba(store.test.pixels).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((store.test.labels, called), torch.ones(360, dtype=torch.int64), accumulate=True)
    source = Read(runs[0] / "report.html").source.split('<table class="confusion')[1].split("</table>")[0]
    cells = [int(cell) for cell in re.findall(r"<td[^>]*>(\d+)</td>", source)]
    assert torch.tensor(cells).view(10, 10).equal(counts)


def test_the_most_confident_mistakes_are_shown_with_their_probabilities(runs: tuple[Path, Path]) -> None:
    store = open_store(digits())
    sure = fcnet.load(runs[0]).predict_proba(store.test.pixels)
    wrong = (sure.argmax(1) != store.test.labels).nonzero().squeeze(1)
    worst = int(wrong[sure.max(1).values[wrong].argmax()])
    truth, called = int(store.test.labels[worst]), int(sure[worst].argmax())
    page = Read(runs[0] / "report.html")
    shown = next(image for image in page.all("img") if "test image" in str(image["alt"]))
    assert shown["alt"] == f"test image {worst}, {truth}, taken for {called}"
    said = f"said {called}: {sure[worst, called]:.1%}\ntruth {truth}: {sure[worst, truth]:.1%}\nimage {worst}"
    assert said in page.text


@pytest.mark.parametrize("number", [1, 2])
def test_a_page_holds_all_it_needs_and_says_all_in_words(number: int, runs: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert report.main([*map(str, runs[:number]), "--out", str(file)]) == 0
    page = Read(file)
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


def test_the_page_is_the_same_at_every_call(copy: Path) -> None:
    pages = []
    for _ in range(2):
        report.main([str(copy)])
        pages.append((copy / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_run_without_its_predictions_is_evaluated_again(copy: Path) -> None:
    report.main([str(copy)])
    kept = Read(copy / "report.html").text
    (copy / "predictions.json").unlink()
    report.main([str(copy)])
    assert Read(copy / "report.html").text == kept


def test_damaged_predictions_are_said_and_not_believed(copy: Path) -> None:
    (copy / "predictions.safetensors").write_bytes(b"x")
    report.main([str(copy)])
    page = Read(copy / "report.html")
    assert re.search(r"not at hand: .*predictions\.safetensors is damaged", page.text)
    assert f"{summary(copy)['test_accuracy']:.2%}" in page.text


def test_two_runs_stand_side_by_side(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    report.main([str(run) for run in runs])
    assert capsys.readouterr().out == "written to report.html\n"
    page = Read(tmp_path / "report.html")
    store = open_store(digits())
    hits = [fcnet.load(run).predict_proba(store.test.pixels).argmax(1) == store.test.labels for run in runs]
    only = [int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())]
    p = mcnemar_test(*only)
    shown = "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"
    difference = f"{(only[1] - only[0]) / 3.6:+.2f} points".replace("-", "−")
    row = "\n".join(["wide", "line", *map(str, only), difference, shown, shown])
    assert f"{row}\n{'wide is better' if p < 0.05 else 'no difference beyond chance'}" in page.text
    marked = re.findall(r'<tr class="highlight"><th scope="row">([\w.]+)', page.source)
    assert sorted(marked) == ["model.hidden", "train.epochs"]
    assert page.words.count("wide") >= 8


def test_where_the_images_are_gone_the_page_says_so_and_is_made(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    names = np.array(["<b>ant</b>", "bee & co", "'cat'"])
    parts = {
        f"{axis}_{part}": draws.integers(256 if axis == "x" else 3, size=(count, 4, 4)[: 3 if axis == "x" else 1])
        for part, count in (("train", 30), ("test", 12))
        for axis in "xy"
    }
    np.savez(tmp_path / "my.npz", classes=names, **{k: v.astype(np.uint8) for k, v in parts.items()})  # type: ignore[arg-type]
    run = trained(
        tmp_path / "run", "data.source=arrays", f"data.path={tmp_path / 'my.npz'}", "train.epochs=1", "data.augment={}"
    )
    page = Read(run / "report.html")
    assert "<b>ant</b>" in page.words
    assert "<b>ant" not in page.source
    pictures = [image for image in page.all("img") if "test image" in str(image["alt"])]
    assert len(pictures) == 12
    (tmp_path / "my.npz").unlink()
    report.main([str(run)])
    without = Read(run / "report.html")
    assert f"the images are not at hand: {tmp_path / 'my.npz'} is gone" in without.text
    assert not [image for image in without.all("img") if "test image" in str(image["alt"])]
    assert {word for word in page.words if word.startswith("said ")} == {
        word for word in without.words if word.startswith("said ")
    }


def test_other_images_than_those_of_the_run_are_not_shown(copy: Path) -> None:
    facts = summary(copy) | {"data": "0" * 64}
    (copy / "summary.json").write_text(json.dumps(facts))
    report.main([str(copy)])
    page = Read(copy / "report.html")
    assert "the images are not at hand: the data is other than what the network was trained on" in page.text
    assert not [image for image in page.all("img") if "test image" in str(image["alt"])]


@pytest.mark.parametrize("num_classes", [2, 30, 31])
def test_of_many_classes_the_most_frequent_confusions_are_shown(num_classes: int, tmp_path: Path) -> None:
    changes = ["data.source=synthetic", "data.shape=[1,3,3]", f"data.num_classes={num_classes}", "data.augment={}"]
    run = trained(tmp_path / "run", *changes, "data.train_size=200", "data.test_size=90", "train.epochs=1")
    page = Read(run / "report.html")
    assert ('<table class="confusion' in page.source) == (num_classes <= 30)
    assert "The most frequent confusions" in page.text
    assert ("<h4>The most frequent confusions</h4>" in page.source) == (num_classes > 30)


def test_what_was_seen_inside_is_shown(copy: Path) -> None:
    before = {
        "epoch": 0,
        "step": 0,
        "images": 256,
        "dead_inputs": None,
        "layers": [LAYER | {"dead": 0.0}],
        "warnings": [],
    }
    after = before | {"epoch": 3, "step": 63, "layers": [LAYER], "warnings": [WARNING]}
    (copy / "diagnostics.jsonl").write_text(f"{json.dumps(before)}\n{json.dumps(after)}\nhalf of a li")
    report.main([str(copy)])
    page = Read(copy / "report.html")
    assert "1\n16\n41%\n–\n0.1 ± 0.9\n12.3\n0.02\n13.7" in page.text
    assert WARNING in page.words
    assert "a line of diagnostics.jsonl is damaged and left out" in page.words
    said = str(page.all("svg"))
    assert "epoch 0: layer 1 0%" in said
    assert "epoch 3: layer 1 41%" in said
    assert 'class="outline"' in page.source
    assert "Saturated units" not in page.text


def test_a_run_under_way_has_its_curves_and_leaves_the_test_set_alone(tmp_path: Path) -> None:
    config = load_config(list_presets()["digits"], ["train.epochs=5", "model.hidden=[16]"])
    run = Run.create(tmp_path / "run", "run", dump_config(config))
    experiment = build(config, torch.device("cpu"))
    with pytest.raises(Stopped):
        list(run_experiment(experiment, run, save_seconds=0.0, stop=lambda: experiment.training.epoch == 2))
    assert not (run.path / "report.html").exists()
    report.main([str(run.path)])
    page = Read(run.path / "report.html")
    assert "the run is not finished: the test set is read at its end" in page.words
    assert "2 of 5" in page.words
    assert "epoch 2: training" in str(page.all("svg"))
    assert "What the network said of the test set is not known." in page.text


def test_a_report_that_fails_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug\nin two lines")

    monkeypatch.setattr("fcnet.report.page.write_report", fail)
    run = trained(tmp_path / "my run", "train.epochs=1")
    line = f"the report could not be made (KeyError: 'a bug\\nin two lines'); try again: python -m fcnet.report '{run}'"
    assert summary(run)["warnings"][-1] == line
    assert f"\nnote: {line}\ntest accuracy" in capsys.readouterr().out
    assert fcnet.load(run).classes == tuple("0123456789")
    monkeypatch.undo()
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    assert report.main([str(run)]) == 0
    assert line in Read(run / "report.html").text


def test_a_report_that_a_kill_took_is_made_when_the_run_is_gone_on_with(copy: Path) -> None:
    (copy / "report.html").unlink()
    (copy / ".report.html.abcdefgh").write_text("half of a page")
    assert train.main(["--resume", "--out", str(copy)]) == 0
    assert Read(copy / "report.html").all("h1")
    assert not list(copy.glob(".*"))


def test_mistakes_are_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, page = str(runs[0]), str(tmp_path / "page.html")
    for arguments, message in (
        ([str(tmp_path)], f"RUN must be a run's folder, got {tmp_path}"),
        ([run, str(tmp_path / "no"), "--out", page], f"RUN must be a run's folder, got {tmp_path / 'no'}"),
        ([run, "--out", str(tmp_path)], f"--out must be a file in a folder that is there, got {tmp_path}"),
        ([run, "--out", "no/page.html"], "--out must be a file in a folder that is there, got no/page.html"),
        ([], "the following arguments are required: RUN; see python -m fcnet.report --help"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            report.main(arguments)
    assert not list(tmp_path.iterdir())
