"""``python -m fcnet.sweep``: trains a configuration with many settings and several seeds, and says which does best."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fcnet import cli
from fcnet.config.presets import find_config
from fcnet.experiment.build import build, open_data
from fcnet.experiment.build_data import check_fit
from fcnet.experiment.runner import Stopped
from fcnet.report.page import ensure_report
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.sweep.ranking import figure, said, table, verdict
from fcnet.sweep.search_space import read_space
from fcnet.sweep.study import Plan, Pruning, quiet
from fcnet.sweep.trials import Pruned, Sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import torch

    from fcnet.sweep.search_space import Space
    from fcnet.sweep.trials import Point


def main(arguments: list[str]) -> int:
    """Parses the flags, trains, prints; returns the exit code."""
    flags = _flags(arguments)
    file = find_config(flags.config, "CONFIG")
    space = read_space(file, flags.set, flags.grid or flags.search, search=bool(flags.search))
    if not space.base.data.validation:
        raise UserError(f"data.validation ({file}) must be greater than 0 for a sweep, which chooses by it, got 0.0")
    device = cli.choose_device(flags.device)
    folder = flags.out or Path("sweeps") / file.stem
    space.config({}, space.base.seed + flags.seeds - 1)  # refuses a seed that is too large
    command = "the same command" if flags.storage else f"python -m fcnet.sweep {shlex.join(arguments)}"
    go_on = f"go on with: {command}"
    with quiet():
        plan = Plan(space, flags.seeds, flags.trials or space.num_points(), flags.prune, _checked_data(space))
        sweep = Sweep(plan, folder, flags.storage)
        try:
            return _carry_out(sweep, device, go_on) or _say_outcome(sweep)
        except cli.Interrupted as interrupted:
            cli.say(f"stopped; {go_on}")
            return 128 + interrupted.number


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("sweep", "Train a configuration with many settings and several seeds, and say which does best.")
    parser.add_argument("config", metavar="CONFIG", help="a TOML file, or the name of a configuration that is shipped")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=[…]",
        help="a setting and the values to try, a TOML list; with several --grid, all combinations",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="append", default=[], metavar="KEY=LOW..HIGH",
        help="a setting and a range, or a list, to look for good values in; "
        "LOW..HIGH:log and LOW..HIGH:linear say how (default: log where HIGH is at least 10 times LOW, above 0)",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, metavar="N", help="how many points --search tries")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each point (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting for all")
    parser.add_argument("--prune", choices=get_args(Pruning), default="none", help="give up points that do badly")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the sweep's folder (default: sweeps/NAME-OF-THE-CONFIG)"
    )
    parser.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="a database that several machines share (default: a file in the folder)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or another of torch's (default: auto)")
    flags = parser.parse_args(arguments)
    if bool(flags.grid) == bool(flags.search):
        raise UserError("either --grid KEY=[…] or --search KEY=LOW..HIGH must be given; --search takes lists as well")
    if bool(flags.search) != (flags.trials is not None):
        raise UserError("--search and --trials N must be given together")
    for name in ("seeds", "trials"):
        if (value := getattr(flags, name)) is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if (ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(f"a sweep must be started as one process, and again for each further worker, got {ranks} ranks")
    return flags


def _checked_data(space: Space) -> str:
    """The fingerprint of the images, which must suit every point."""
    with cli.decoding() as progress:
        store = open_data(space.base.data, progress)
    mistakes: dict[str, None] = {}
    for config in space.tried:
        try:
            check_fit(config, store)
        except UserError as error:
            mistakes |= dict.fromkeys(str(error).split("\n"))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return store.fingerprint


def _carry_out(sweep: Sweep, device: torch.device, go_on: str) -> int:
    """Works on the sweep until no point is left; an exit code other than 0 where a signal ended it."""
    plan = sweep.plan
    cli.say(
        f"{plan.num_points} point{'s' * (plan.num_points > 1)} with {plan.num_seeds} seed{'s' * (plan.num_seeds > 1)} "
        f"each, chosen by validation accuracy; {sweep.folder}"
    )
    for point in sweep.points():
        cli.say(f"point {point.number} of {plan.num_points}: {_settings(point)}")
        try:
            for seed in plan.seeds:
                if code := _run(point, seed, device, go_on):
                    return code
        except Pruned:
            point.prune()
            cli.say("  pruned: it does worse than others did by then")
        except NonFiniteError as error:
            point.fail(str(error))
            cli.say(f"  failed: {error}")
        else:
            point.finish()
        sweep.write()
    return 0


def _run(point: Point, seed: int, device: torch.device, go_on: str) -> int:
    """One run of a point, to its end; an exit code other than 0 where a signal ended it."""
    run = point.run(seed)
    if not run.finished:
        experiment = build(point.config(seed), device)
        with cli.deferred_signals() as came:
            try:
                cli.show(
                    experiment.training,
                    point.carry_out(experiment, run, seed, stop=lambda: came() > 0),
                    lines=False,
                )
            except Stopped:
                cli.say(f"stopped and saved in epoch {experiment.training.epoch + 1} of {run.path}; {go_on}")
                return 128 + (came() or signal.SIGTERM)
        ensure_report(run, experiment.test)
    result = point.note(run, seed)
    cli.say(
        f"  seed {seed}: validation accuracy {result.validation_accuracy:.2%} after {result.epochs} "
        f"epoch{'s' * (result.epochs > 1)} in {result.seconds:.1f} s; {run.path}"
    )
    return 0


def _settings(point: Point) -> str:
    return ", ".join(f"{key} = {said(value)}" for key, value in point.settings.items())


def _say_outcome(sweep: Sweep) -> int:
    """The table and what it means; the exit code, 2 where no point came to an end."""
    outcome = sweep.write()
    for line in _lines(*table(outcome.points)):
        cli.say(line)
    if outcome.num_left:
        cli.say(
            f"{outcome.num_left} of {sweep.plan.num_points} points are not at their end: "
            "other processes work on them, or were stopped"
        )
    cli.say(f"by validation accuracy, {verdict(outcome.points)}")
    if outcome.best is not None and outcome.tested is not None:
        tested = f"{figure(*outcome.tested)} (n = {len(outcome.best.runs)})"
        cli.say(f"test accuracy of point {outcome.best.number}, looked at after the choice: {tested}")
    cli.say(f"written to {sweep.folder}: sweep.html, sweep.json, sweep.csv")
    return 0 if outcome.best or outcome.num_left else cli.refuse("no point came to its end; the table says why")


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


if __name__ == "__main__":
    cli.command(main)
