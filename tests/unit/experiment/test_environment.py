"""Tests of fcnet.experiment.environment."""

from __future__ import annotations

import json

import torch

from fcnet.experiment.environment import describe_environment
from fcnet.experiment.run_schema import Summary


def test_the_environment_is_all_that_a_summary_needs_besides_figures() -> None:
    found = describe_environment(torch.device("cpu"), seed=7, data="made")
    assert json.loads(json.dumps(found)) == found
    assert (found["device"], found["seed"], found["data"]) == ("cpu", 7, "made")
    assert found["threads"] == torch.get_num_threads()
    assert found.keys() <= Summary.model_fields.keys()
