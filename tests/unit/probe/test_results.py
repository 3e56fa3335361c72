"""Tests of fcnet.probe.results."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fcnet.linear_model import LogisticPath, logistic_path
from fcnet.probe.arguments import Settings
from fcnet.probe.few_shot import FewShotFit
from fcnet.probe.procedure import Outcome
from fcnet.probe.results import choice_advice, configuration, convergence_warnings, make_classifier
from fcnet.probe.selection import choose, compare, evaluate_path

CS = (0.01, 0.1, 1.0)


def make_problem(offset: float = 0.0, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(90) % classes
    return (torch.randn(90, 4, generator=draws).double() + torch.eye(classes, 4)[y] + offset), y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_model_takes_features_as_they_are_and_keeps_its_digits_beside_a_large_mean(
    classes: int, standardize: bool
) -> None:
    x, y = make_problem(1000.0, classes)
    x = x.float()
    path = logistic_path(x, y, [1.0], standardize=standardize)
    classifier = make_classifier(path, x, [f"c{label}" for label in range(classes)], normalize=False)
    assert_close(classifier.predict_proba(x).double(), path.predict_proba(x)[0], atol=1e-5, rtol=0.0)
    assert not classifier.training


def test_a_model_of_scaled_rows_scales_them_itself() -> None:
    x, y = make_problem(1.0)
    scaled = (x / x.norm(dim=1, keepdim=True)).float()
    path = logistic_path(scaled, y, [1.0])
    classifier = make_classifier(path, scaled, "abc", normalize=True)
    assert_close(classifier.predict_proba(5.0 * x).double(), path.predict_proba(scaled)[0], atol=1e-5, rtol=0.0)


def test_the_configuration_names_the_data_for_other_commands() -> None:
    config = configuration("f.npz", Settings(Cs=CS, validation=0.2, seed=3, standardize=False, label_column="y"))
    assert (config.data.source, config.data.path, config.data.validation) == ("features", "f.npz", 0.2)
    assert (config.seed, config.data.standardize, config.data.label_column) == (3, False, "y")
    assert (config.model.kind, config.train.epochs) == ("logistic", 1)


def make_outcome(chosen: int | None = None, **changes: Any) -> Outcome:
    x, y = make_problem()
    path = dataclasses.replace(logistic_path(x, y, CS), **changes)
    held_out = evaluate_path(path, x, y, torch.arange(90), torch.device("cpu"))
    best = choose(held_out) if chosen is None else chosen
    refit = logistic_path(x, y, [CS[best]])
    return Outcome([path], [held_out], held_out, best, compare(held_out, best), refit, [])


def test_what_has_converged_inside_the_range_has_no_warning() -> None:
    assert convergence_warnings(make_outcome(chosen=1), Settings(Cs=CS)) == []
    assert choice_advice(make_outcome(chosen=1), Settings(Cs=CS)) == []


def unconverged(path: LogisticPath, gap: float) -> LogisticPath:
    return dataclasses.replace(path, converged=torch.zeros_like(path.converged), gap=torch.full_like(path.gap, gap))


def test_what_has_not_converged_is_said_in_words() -> None:
    outcome = make_outcome(chosen=1, converged=torch.tensor([True, True, False]))
    outcome = dataclasses.replace(
        outcome,
        refit=unconverged(outcome.refit, torch.inf),
        few_shots=[FewShotFit(1, 1, outcome.refit, 0.5, 2), FewShotFit(1, 2, outcome.refit, 0.5, 0)],
    )
    first, second, third = convergence_warnings(outcome, Settings(Cs=CS))
    rule = "not converged to a tolerance of 1e-06: C = 1; the objectives exceed their minima by a fraction of at most "
    assert first.startswith(rule)
    assert second == (
        "the model is no minimum: its search has not converged, and its objective exceeds the minimum by an unknown "
        "amount; a larger --max-iter or --tol changes that"
    )
    assert third == "1 of 2 few-shot fits had penalties that did not converge"


@pytest.mark.parametrize(("chosen", "end"), [(0, "smallest"), (2, "largest")])
def test_a_choice_at_an_end_is_told(chosen: int, end: str) -> None:
    (line,) = choice_advice(make_outcome(chosen=chosen), Settings(Cs=CS))
    assert line.startswith(f"the chosen C = {CS[chosen]:g} is the {end} that was tried")
    assert choice_advice(make_outcome(chosen=0), Settings(Cs=CS[:1])) == []
