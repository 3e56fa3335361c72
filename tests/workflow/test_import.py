"""Importing the package is free."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import json, os, sys, warnings
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

after = state()
heavy = ["matplotlib", "sklearn", "scipy", "torchvision", "pandas", "pydantic", "PIL", "tqdm", "torch._dynamo",
         "optuna", "sqlalchemy", "jinja2", "backports.zstd", "compression.zstd"]
print(json.dumps({
    "loaded": [name for name in heavy if name in sys.modules and name not in modules],
    "changed": [key for key in after if after[key] != before[key]],
    "cuda": torch.cuda.is_initialized(),
}))
"""


def test_importing_loads_nothing_heavy_and_changes_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    seen: dict[str, Any] = json.loads(result.stdout)
    assert seen == {"loaded": [], "changed": [], "cuda": False}
