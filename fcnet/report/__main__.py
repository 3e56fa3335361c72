"""``python -m fcnet.report``: one page that says what a run learned, or several side by side."""

from __future__ import annotations

from pathlib import Path

from fcnet import cli
from fcnet.report.page import write_report
from fcnet.runtime.errors import UserError


def main(arguments: list[str]) -> int:
    """Parses the flags, makes the page, prints; returns the exit code."""
    parser = cli.Parser("report", "Make one page that says what a run learned, or several side by side.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="the page (default: RUN/report.html, of several runs report.html here)",
    )
    flags = parser.parse_args(arguments)
    file = flags.out or (flags.runs[0] if len(flags.runs) == 1 else Path()) / "report.html"
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"--out must be a file in a folder that is there, got {file}")
    write_report(flags.runs, file)
    cli.print_status(f"written to {file}")
    return 0


if __name__ == "__main__":
    cli.run_command(main)
