"""Hides `fcntl` from Python and its child processes: ``PYTHONPATH=tests/without_fcntl pytest``."""

import sys

sys.modules["fcntl"] = None  # type: ignore[assignment]  # importing it fails, as on Windows
