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
from fcnet.experiment.build_data import check_data
from fcnet.experiment.runner import Stopped
from fcnet.report.page import ensure_report
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.sweep.ranking import format_mean_std, format_value, ranking_table, verdict
from fcnet.sweep.search_space import parse_space
from fcnet.sweep.study import Pruning, SweepPlan, quiet_optuna
from fcnet.sweep.trials import Pruned, Sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import torch

    from fcnet.sweep.search_space import SearchSpace
    from fcnet.sweep.trials import SweepTrial


def main(arguments: list[str]) -> int:
    """Parses the flags, trains, prints; returns the exit code."""
    flags = _parse_flags(arguments)
    file = find_config(flags.config, "CONFIG")
    space = parse_space(file, flags.set, flags.grid or flags.search, search=bool(flags.search))
    if not space.base.data.validation:
        raise UserError(f"data.validation ({file}) must be greater than 0 for a sweep, which chooses by it, got 0.0")
    device = cli.choose_device(flags.device)
    folder = flags.out or Path("sweeps") / file.stem
    space.config({}, space.base.seed + flags.seeds - 1)  # refuses a seed that is too large
    command = "the same command" if flags.storage else f"python -m fcnet.sweep {shlex.join(arguments)}"
    resume_hint = f"go on with: {command}"
    with quiet_optuna():
        plan = SweepPlan(space, flags.seeds, flags.trials or space.num_trials(), flags.prune, _check_data(space))
        sweep = Sweep(plan, folder, flags.storage)
        try:
            return _run_trials(sweep, device, resume_hint) or _print_outcome(sweep)
        except cli.Interrupted as interrupted:
            cli.print_status(f"stopped; {resume_hint}")
            return 128 + interrupted.number


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
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
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials --search tries")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each trial (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting for all")
    parser.add_argument("--prune", choices=get_args(Pruning), default="none", help="prune unpromising trials")
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


def _check_data(space: SearchSpace) -> str:
    """The fingerprint of the images, which must suit every trial."""
    with cli.show_decoding() as progress:
        store = open_data(space.base.data, progress)
    errors: dict[str, None] = {}
    for config in space.checked_configs:
        try:
            check_data(config, store)
        except UserError as error:
            errors |= dict.fromkeys(str(error).split("\n"))
    if errors:
        raise UserError("\n".join(errors))
    return store.fingerprint


def _run_trials(sweep: Sweep, device: torch.device, resume_hint: str) -> int:
    """Works on the sweep until no trial is left; an exit code other than 0 where a signal ended it."""
    plan = sweep.plan
    cli.print_status(
        f"{plan.num_trials} trial{'s' * (plan.num_trials > 1)} with {plan.num_seeds} seed{'s' * (plan.num_seeds > 1)} "
        f"each, chosen by validation accuracy; {sweep.folder}"
    )
    for trial in sweep.trials():
        cli.print_status(f"trial {trial.number} of {plan.num_trials}: {_format_settings(trial)}")
        try:
            for seed in plan.seeds:
                if code := _run_seed(trial, seed, device, resume_hint):
                    return code
        except Pruned:
            trial.prune()
            cli.print_status("  pruned: it does worse than others did by then")
        except NonFiniteError as error:
            trial.fail(str(error))
            cli.print_status(f"  failed: {error}")
        else:
            trial.finish()
        sweep.write()
    return 0


def _run_seed(trial: SweepTrial, seed: int, device: torch.device, resume_hint: str) -> int:
    """One run of a trial, to its end; an exit code other than 0 where a signal ended it."""
    run = trial.run(seed)
    if not run.finished:
        experiment = build(trial.config(seed), device)
        with cli.defer_signals() as received_signal:
            try:
                cli.show_progress(
                    experiment.training,
                    trial.run_experiment(experiment, run, seed, stop=lambda: received_signal() > 0),
                    lines=False,
                )
            except Stopped:
                cli.print_status(
                    f"stopped and saved in epoch {experiment.training.epoch + 1} of {run.path}; {resume_hint}"
                )
                return 128 + (received_signal() or signal.SIGTERM)
        ensure_report(run, experiment.test)
    result = trial.record_result(run, seed)
    cli.print_status(
        f"  seed {seed}: validation accuracy {result.validation_accuracy:.2%} after {result.epochs} "
        f"epoch{'s' * (result.epochs > 1)} in {result.seconds:.1f} s; {run.path}"
    )
    return 0


def _format_settings(trial: SweepTrial) -> str:
    return ", ".join(f"{key} = {format_value(value)}" for key, value in trial.settings.items())


def _print_outcome(sweep: Sweep) -> int:
    """The table and what it means; the exit code, 2 where no trial came to an end."""
    outcome = sweep.write()
    for line in _align_columns(*ranking_table(outcome.trials)):
        cli.print_status(line)
    if outcome.num_unfinished:
        cli.print_status(
            f"{outcome.num_unfinished} of {sweep.plan.num_trials} trials are not at their end: "
            "other processes work on them, or were stopped"
        )
    cli.print_status(f"by validation accuracy, {verdict(outcome.trials)}")
    if outcome.best is not None and outcome.test_accuracy is not None:
        test_accuracy = f"{format_mean_std(*outcome.test_accuracy)} (n = {len(outcome.best.runs)})"
        cli.print_status(f"test accuracy of trial {outcome.best.number}, looked at after the choice: {test_accuracy}")
    cli.print_status(f"written to {sweep.folder}: sweep.html, sweep.json, sweep.csv")
    return (
        0 if outcome.best or outcome.num_unfinished else cli.print_error("no trial came to its end; the table says why")
    )


def _align_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


if __name__ == "__main__":
    cli.run_command(main)
