"""Importing the package is free: it loads no other package, changes no state, and finds its names on first use."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import fcnet
from tests.helpers import run_python

if TYPE_CHECKING:
    from pathlib import Path

DEPENDENCIES = {
    *("torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "pydantic", "safetensors", "matplotlib", "tqdm"),
    *("jinja2", "tomli_w", "filelock", "optuna", "sqlalchemy"),
}
PUBLIC_NAMES = {
    *("LogisticRegression", "MLP", "GradientDescent", "fit", "load", "NonFiniteError", "UserError", "__version__"),
    *("data", "diagnostics", "evaluation", "functional", "losses", "metrics", "models", "modules", "optim"),
}
STATE_PROGRAM = """
import json, os, sys
import torch


def state():
    return {
        "environment": dict(os.environ),
        "seed": torch.initial_seed(),
        "generator": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
    }


modules, before = set(sys.modules), state()
import fcnet

for name in dir(fcnet):
    getattr(fcnet, name)
after = state()
heavy = ["matplotlib", "sklearn", "scipy", "torchvision", "pandas", "pydantic", "PIL", "tqdm", "torch._dynamo",
         "optuna", "sqlalchemy", "jinja2", "backports.zstd", "compression.zstd"]
print(json.dumps({
    "loaded": [name for name in heavy if name in sys.modules and name not in modules],
    "changed": [key for key in after if after[key] != before[key]],
    "cuda": torch.cuda.is_initialized(),
}))
"""
WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None  # `import fcntl` raises ImportError, as on Windows
from fcnet import cli, train
cli.run_command(train.main)
"""


def loaded_by(statement: str) -> set[str]:
    """Returns the top-level packages that a statement loads in a new process."""
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    process = run_python("-W", "error", "-c", program)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.split())


def test_importing_the_package_loads_no_dependency() -> None:
    assert not loaded_by("import fcnet; dir(fcnet)") & DEPENDENCIES


def test_using_the_public_names_loads_nothing_heavy_and_changes_no_state(tmp_path: Path) -> None:
    process = run_python("-W", "error", "-c", STATE_PROGRAM, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    seen: dict[str, Any] = json.loads(process.stdout)
    assert seen == {"loaded": [], "changed": [], "cuda": False}


IMPORTS = [
    "from fcnet import MLP; assert MLP(4, (3,), 2).num_classes == 2",
    "import fcnet.functional as F; assert F.relu.__module__.startswith('fcnet.functional')",
    "import fcnet.functional; import fcnet; fcnet.functional.relu",
    "import fcnet; fcnet.functional.relu; fcnet.optim; fcnet.data",
    "from fcnet import *; assert MLP and fit and functional",
]
# Imports torch, which takes seconds, once for all; each statement then runs in a process that has not imported fcnet.
FORKED = """
import os, sys, torch
for statement in sys.argv[1:]:
    if os.fork() == 0:
        exec(statement)
        sys.exit("fcnet" not in sys.modules)
    assert os.wait()[1] == 0, statement
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_names_are_found_whichever_way_they_are_imported() -> None:
    process = run_python("-c", FORKED, *IMPORTS)
    assert process.returncode == 0, process.stderr


def test_dir_lists_all_public_names() -> None:
    assert set(dir(fcnet)) >= PUBLIC_NAMES
    assert set(dir(fcnet)) - {"__version__"} == set(fcnet.__all__)
    for name in PUBLIC_NAMES:
        assert getattr(fcnet, name) is not None


def test_the_version_is_that_of_the_installed_distribution() -> None:
    from importlib.metadata import version

    assert fcnet.__version__ == version("fcnet")


def test_an_unknown_attribute_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"^module 'fcnet' has no attribute 'Perceptron'$"):
        fcnet.Perceptron  # noqa: B018 - the access is the test
    with pytest.raises(ImportError, match="'Perceptron'"):
        from fcnet import Perceptron  # noqa: F401


def test_training_works_without_fcntl(tmp_path: Path) -> None:
    flags = ["--config", "digits", "--set", "train.epochs=1", "--out", "run"]
    process = run_python("-W", "error", "-c", WITHOUT_FCNTL, *flags, cwd=tmp_path, FCNET_CACHE=str(tmp_path / "cache"))
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "run" / "summary.json").is_file()
