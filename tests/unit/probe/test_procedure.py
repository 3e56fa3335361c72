"""Tests of fcnet.probe.procedure: the course of a probe; scikit-learn is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fcnet.probe.arguments import Settings
from fcnet.probe.procedure import Outcome, Phase, plan, run_phases
from fcnet.probe.run import ProbeRun
from fcnet.probe.splits import make_splits
from fcnet.probe.training_data import TrainingData, open_training_data
from fcnet.probe.work import Work
from tests.unit.probe.helpers import write_features

CS = (0.001, 0.03, 1.0)


class Notes:
    """Remembers what happened."""

    def __init__(self) -> None:
        self.begun: list[Phase] = []
        self.lines: list[str] = []

    def begin(self, phase: Phase) -> None:
        self.begun.append(phase)

    def end(self, phase: Phase, line: str) -> None:
        assert phase == self.begun[-1]
        self.lines.append(f"{phase.name}: {line}")


def run(settings: Settings, **options: Any) -> tuple[TrainingData, Outcome, Notes]:
    data = open_training_data(write_features(**options), feature_column="embedding", label_column="label")
    folder = ProbeRun(Path())
    folder.state.mkdir()
    work, notes = Work(folder, settings, torch.device("cpu"), save_seconds=1e9), Notes()
    x = data.features(normalize=settings.l2_normalize)
    outcome = run_phases(work, data, x, settings, notes)
    assert notes.begun == plan(data, settings)
    return data, outcome, notes


@pytest.mark.parametrize("folds", [None, 3])
def test_accuracies_and_the_choice_are_scikit_learns(working_folder: Path, folds: int | None) -> None:
    settings = Settings(Cs=CS, folds=folds, validation=None if folds else 0.3, tol=1e-9)
    data, outcome, notes = run(settings)
    x, y = data.parts[0].double().numpy(), data.y.numpy()
    correct = np.zeros(len(CS))
    for split in make_splits(data, settings):
        scaler = StandardScaler().fit(x[split.rows])
        for k, penalty in enumerate(CS):
            model = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000)
            model.fit(scaler.transform(x[split.rows]), y[split.rows])
            correct[k] += (model.predict(scaler.transform(x[split.held_out])) == y[split.held_out]).sum()
    assert outcome.pooled.num_correct == correct.tolist()
    assert correct[outcome.chosen] == correct.max()
    assert outcome.pooled.count == (len(y) if folds else 36)
    scaler = StandardScaler().fit(x)
    whole = LogisticRegression(C=CS[outcome.chosen], tol=1e-10, max_iter=10_000).fit(scaler.transform(x), y)
    np.testing.assert_allclose(outcome.refit.coef[0].numpy() * scaler.scale_, whole.coef_, atol=1e-6)
    expected = ["fold 1/3", "fold 2/3", "fold 3/3"] if folds else ["all penalties"]
    assert [phase.name for phase in notes.begun] == [*expected, "chosen penalty"]
    assert notes.lines[-1].startswith(f"chosen penalty: C = {CS[outcome.chosen]:g} on 120 examples, ")


def test_a_validation_split_is_held_out_and_fitted_at_the_end(working_folder: Path) -> None:
    _, outcome, notes = run(Settings(Cs=CS), num_validation=30)
    assert outcome.pooled.count == 30
    assert notes.lines[0].startswith("all penalties: 3 penalties on 120 examples, best held-out accuracy ")
    assert " on 150 examples, " in notes.lines[1]
    assert float(outcome.refit.Cs[0]) == CS[outcome.chosen]


def test_few_shots_come_last_one_phase_for_each_draw(working_folder: Path) -> None:
    _, outcome, notes = run(Settings(Cs=CS, validation=0.2, shots=(1, 2), repeats=2))
    assert [phase.name for phase in notes.begun[2:]] == [
        *("1 shot, draw 1/2", "1 shot, draw 2/2", "2 shots, draw 1/2", "2 shots, draw 2/2")
    ]
    assert [(fit.shots, fit.repeat) for fit in outcome.few_shots] == [(1, 1), (1, 2), (2, 1), (2, 2)]
