"""Tests of fcnet.report.probe_page; tests/workflow/test_probe.py writes whole pages."""

from __future__ import annotations

import html
from typing import Any

import pytest
import torch

from fcnet.report.probe_page import describe_neighbours, describe_protocol, probe_figures, render_probe_page
from tests.helpers import make_summary
from tests.unit.report.helpers import make_run

PENALTIES = (0.01, 0.1, 1.0)


def make_probe(*, equal_range: tuple[float, float] = (0.01, 0.1), **changes: Any) -> dict[str, Any]:
    entry = {"iterations": 5, "converged": True, "objective": 2.0, "gap": 1e-9}
    figures = {"accuracy_interval": [0.6, 0.9], "log_loss": 0.5, "log_loss_interval": [0.4, 0.6]}
    penalties = [
        {"C": penalty, **entry, **figures, "accuracy": 0.7 + 0.1 * k, "p_value": (0.5, 1.0, 0.001)[k]}
        for k, penalty in enumerate(PENALTIES)
    ]
    probe = {"C": 0.1, "penalties": penalties, "equal_range": list(equal_range), "tol": 1e-6, "max_iter": 1000}
    probe |= {"validation": 0.1, "folds": None, "l2_normalize": True, "standardize": True, "class_weight": "balanced"}
    return probe | {"refit": {"C": 0.1, **entry, "converged": False, "gap": None}, "few_shot": []} | changes


def page(**changes: Any) -> str:
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 3.0]])
    run = make_run(logits, [0, 2, 1], with_images=False, names=["a.png", "=b.png", "<c>.png"])
    run.summary.update(make_summary(warnings=["something is odd"], probe=make_probe(**changes)))
    return render_probe_page(run)


def test_the_page_shows_choice_figures_and_mistakes_the_surest_first() -> None:
    text = page()
    for part in ("chosen C", "held-out accuracy", "something is odd", "scaled to unit norm, standardised", "<td>0.001"):
        assert part in text, part
    assert text.index("=b.png") < text.index("&lt;c&gt;.png")
    assert "a.png<" not in text
    assert "not converged, distance from the minimum unknown" in text
    assert text.count('class="highlight"') == 1
    assert "<script>" in text
    assert 'src="' not in text


def test_few_shots_have_a_section_only_if_there_are_some() -> None:
    assert "few-shot" not in page()
    entry = {"shots": 4, "Cs": [0.1, 1.0], "accuracies": [0.5, 0.6], "mean": 0.55, "std": 0.07, "interval": [0.4, 0.7]}
    text = page(few_shot=[entry])
    assert "<td>55.00%</td><td>7.00%</td><td>40.00% to 70.00%</td><td>2</td><td>0.1, 1</td>" in text


@pytest.mark.parametrize(
    ("equal_range", "sentence"),
    [
        ((0.01, 0.1), "None of the values from 0.01 to 0.1 differs from the chosen C beyond chance"),
        ((0.01, 1.0), "None of the values tried differs from the chosen C beyond chance"),
        ((0.1, 0.1), "The neighbours of the chosen C differ from it beyond chance"),
    ],
)
def test_the_neighbours_are_compared_in_words(equal_range: tuple[float, float], sentence: str) -> None:
    assert describe_neighbours(make_probe(equal_range=equal_range)).startswith(sentence)
    assert sentence in html.unescape(page(equal_range=equal_range))


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, "10% of each class, 10 held-out examples"),
        ({"validation": None}, "the validation split, 10 held-out examples"),
        ({"validation": None, "folds": 5}, "5-fold cross-validation, 10 held-out examples in all"),
    ],
)
def test_the_protocol_is_told_with_its_rule_for_ties(changes: dict[str, Any], how: str) -> None:
    text = describe_protocol(make_summary(probe=make_probe(**changes)))
    assert text.startswith(f"C was chosen by {how}: the most correct predictions; of equal ones the lowest log loss")


def test_the_figures_without_a_test_split_are_those_of_the_choice() -> None:
    run = make_run(torch.eye(3), [0, 1, 2])
    changes = {"test_accuracy": None, "test_interval": None, "test_loss": None, "test_images": 0}
    run.summary.update(make_summary(probe=make_probe(), **changes))
    assert [label for label, _, _ in probe_figures(run)[:2]] == ["chosen C", "held-out accuracy"]
    run.summary.update(make_summary(probe=make_probe()))
    labels = [label for label, _, _ in probe_figures(run)]
    assert labels == ["test accuracy", "test loss", "chosen C", "held-out accuracy", "training time", "parameters"]
