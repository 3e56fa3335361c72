"""``python -m fcnet.report``: writes an HTML report of one run, or of several runs side by side."""

from __future__ import annotations

from pathlib import Path

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.report.page import write_report
from fcnet.runtime.errors import UserError


def main(arguments: list[str]) -> int:
    """Parses the flags, writes the report and returns the exit code."""
    parser = Parser(
        "report",
        "Write an HTML report of one run, or of several runs side by side.",
        ["runs/digits", "runs/digits runs/digits-2 --out both.html"],
    )
    parser.add_run(several=True)
    parser.add_out("page to write (default: RUN/report.html; report.html for several runs)", metavar="FILE.html")
    flags = parser.parse(arguments)
    file = flags.out or (flags.runs[0] if len(flags.runs) == 1 else Path()) / "report.html"
    if file.is_dir():
        raise UserError(f"{'--out' if flags.out else file} must be a file, got the folder {file}")
    if flags.out is not None and not file.parent.is_dir():
        raise UserError(f"--out must be in an existing folder, got {file}")
    with cli.say_if_slow("writing the report"):
        write_report(flags.runs, file)
    cli.print_status(f"written to {file}")
    return 0


if __name__ == "__main__":
    cli.run_command(main)
