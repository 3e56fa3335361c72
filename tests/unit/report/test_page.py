"""Tests of fcnet.report.page."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from fcnet.config.schema import Config
from fcnet.data.batches import Batches
from fcnet.evaluation.predictions import PredictionCollector, Predictions
from fcnet.experiment.run_folder import Run
from fcnet.report import page
from fcnet.report.page import ensure_report, render_report
from fcnet.report.run_data import RunData
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import shorten_middle
from tests.helpers import make_summary, random_classifier, random_images


def make_run(name: str = "run", **changes: Any) -> RunData:
    """A run that has just started."""
    return RunData(name, Path(name), Config(), records=[], summary={}, **changes)


def test_a_run_without_an_epoch_has_a_page_that_lists_what_is_missing() -> None:
    html = render_report([make_run(missing=["no test images"])])
    assert "<h1>run</h1>" in html
    assert f"0 of {Config().train.epochs}" in html
    assert "no test images" in html
    assert html.count("No epoch has finished yet.") == 2
    ids = set(re.findall(r'<h2 id="([a-z-]+)"', html))
    assert ids == {"summary", "curves", "layers", "speed", "configuration"}
    assert set(re.findall(r'<a href="#([a-z-]+)">', html)) - {"content"} == ids
    assert "The run has no diagnostics (diagnostics.jsonl)." in html


def test_runs_of_the_same_name_are_numbered() -> None:
    html = render_report([make_run("a"), make_run("b"), make_run("a")])
    assert "<h1>a (1), b and a (3)</h1>" in html
    assert '<h2 id="comparison">Comparison</h2>' in html
    assert "no two of them have predictions on the same test images" in html


def test_names_are_escaped() -> None:
    html = render_report([make_run("<script>x")])
    assert "<script>x" not in html
    assert "&lt;script&gt;x" in html


def test_the_path_of_an_image_is_escaped_cut_in_its_text_and_whole_in_its_title() -> None:
    path = f'test/"><img src=x>/{"a" * 100}&.png'
    test = Batches(random_images(1, (1, 2, 2)), torch.tensor([1]), names=[path])
    collector = PredictionCollector(test)
    collector.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    classifier = random_classifier((1, 2, 2), 2)
    html = render_report([make_run(classifier=classifier, predictions=collector.compute(), test=test)])
    assert "<img src=x>" not in html
    (title, text) = re.findall(r'<span class="path" title="(.*?)">(.*?)</span>', html)[0]
    assert unescape(title) == path
    assert unescape(text) == shorten_middle(path, 60)


def make_run_folder(folder: Path) -> Run:
    run = Run.create(folder, "", "")
    run.finish(make_summary())
    return run


def test_a_report_that_exists_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run_folder(tmp_path)
    (tmp_path / "predictions.json").touch()
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(page, "write_report", lambda *_: pytest.fail("the report was written again"))
    ensure_report(run)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_run_without_predictions_gets_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "write_report", lambda *_: pytest.fail("a report was written"))
    ensure_report(make_run_folder(tmp_path))


def test_a_report_that_fails_becomes_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("two\nlines")

    run = make_run_folder(tmp_path)
    (tmp_path / "predictions.json").touch()
    monkeypatch.setattr(page, "write_report", fail)
    ensure_report(run)
    assert run.summary()["warnings"] == [
        f"writing the report failed (UserError: two lines); to try again, run python -m fcnet.report {tmp_path}"
    ]


@pytest.mark.parametrize(("hidden", "has_demo"), [(8, True), (150, False)])
def test_a_page_of_very_many_classes_stays_below_five_megabytes(hidden: int, has_demo: bool) -> None:
    num_classes, count = 21_841, 400
    labels = torch.arange(count)
    classes = torch.stack([(labels + labels % 2) % num_classes, labels + 7], 1)
    confidence = torch.full((count,), 0.75)
    predictions = Predictions(
        labels, classes, torch.stack([confidence, 1.0 - confidence], 1), 1.0 - confidence, torch.arange(count)
    )
    names = tuple(f"n{number:08d} with a rather long name" for number in range(num_classes))
    classifier = random_classifier((1, 4, 4), num_classes, hidden=(hidden,))
    classifier.classes = names
    test = Batches(random_images(count, (1, 4, 4)), labels)
    html = render_report([make_run(classifier=classifier, predictions=predictions, test=test)])
    assert len(html.encode()) < 5_000_000
    assert ('id="live"' in html) == has_demo
    assert "The 40 of 21,841 classes with the lowest F1, lowest first." in html
    assert "The 20 most frequent of 200." in html
    assert '<div class="heat-map">' not in html
