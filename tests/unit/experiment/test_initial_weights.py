"""Whole trainings that start from a run are tested in ``tests/workflow/test_init_from.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.schema import Config, Data, Model
from fcnet.experiment.initial_weights import InitialWeights, load_initial_weights
from fcnet.experiment.run_folder import Run
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError
from tests.helpers import assert_identical, random_classifier, random_tensor

if TYPE_CHECKING:
    from pathlib import Path


def make_initial(num_classes: int = 3, **arguments: Any) -> InitialWeights:
    return InitialWeights(random_classifier((1, 2, 4), num_classes, **arguments), "runs/a", "0" * 64)


def copied(initial: InitialWeights, classes: list[str]) -> tuple[MLP, str]:
    arguments = initial.classifier.model.arguments | {"num_classes": len(classes)}
    model = MLP(**arguments)
    note = initial.copy_to(model, classes)
    return model.eval(), note


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_each_class_keeps_its_output_in_any_order(num_classes: int) -> None:
    initial = make_initial(num_classes, normalization="batch")
    before = list(initial.classifier.classes)
    order = [*before[1:], before[0]]
    model, note = copied(initial, order)
    x = random_tensor(6, 8)
    expected = initial.classifier.model.predict_proba(x)[:, [before.index(name) for name in order]]
    torch.testing.assert_close(model.predict_proba(x), expected)
    assert note == (
        "starts from the weights of runs/a; last layer copied, in the order of the classes here; "
        "inputs normalized as there"
    )


def test_a_new_last_layer_starts_from_zeros() -> None:
    initial = make_initial(num_classes=3)
    model, note = copied(initial, ["a", "b", "c", "d"])
    assert "last layer new, for 4 classes instead of 3;" in note
    state = model.state_dict()
    head = {name: x for name, x in state.items() if name.startswith("layers.2.")}
    assert [tuple(x.shape) for x in head.values()] == [(4, 8), (4,)]
    assert not any(x.any() for x in head.values())
    source = initial.classifier.model.state_dict()
    assert_identical(
        {k: x for k, x in state.items() if k not in head}, {k: x for k, x in source.items() if k not in head}
    )


def test_logistic_regression_for_other_classes_has_nothing_to_start_from() -> None:
    message = r"^model.init_from: nothing to start from, runs/a has no hidden layer and other classes$"
    with pytest.raises(UserError, match=message):
        copied(make_initial(hidden=()), ["a", "b", "c"])


def test_the_copy_does_not_share_memory_with_the_source() -> None:
    initial = make_initial()
    model, _ = copied(initial, list(initial.classifier.classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert not any((x == 7.0).any() for x in initial.classifier.model.parameters())


def test_dropout_and_the_initialization_may_differ() -> None:
    model = Model(hidden=(8, 8), dropout=0.5, initialization="glorot")
    make_initial().check_fit(Config(model=model), (1, 2, 4))


def test_whitening_must_fit() -> None:
    config = Config(model=Model(hidden=(8, 8)), data=Data(whiten=4))
    make_initial(whiten=4).check_fit(config, (1, 2, 4))
    with pytest.raises(UserError, match=r"^data.whiten must be 5 to start from the weights of runs/a, got 4$"):
        make_initial(whiten=5).check_fit(config, (1, 2, 4))


def test_the_copy_of_a_run_is_preferred_and_written_once(tmp_path: Path) -> None:
    run, initial = Run.create(tmp_path / "run", "run", ""), make_initial()
    initial.save(run)
    make_initial(seed=1).save(run)
    config = Config(model=Model(init_from=str(tmp_path / "gone")))
    found = load_initial_weights(config, run)
    assert found is not None
    assert found.origin == initial.origin
    assert_identical(found.classifier.state_dict(), initial.classifier.state_dict())
    assert load_initial_weights(Config(), run) is None
    with pytest.raises(UserError, match=r"^model.init_from must be the folder of a finished run, got .*/gone: no such"):
        load_initial_weights(config)
