"""``python -m fcnet.sweep``: trains a configuration with many settings and several seeds, and ranks the settings."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.config.presets import find_config
from fcnet.experiment.build import build, open_data
from fcnet.experiment.build_data import check_data
from fcnet.experiment.provenance import CommandRecord
from fcnet.experiment.runner import Stopped
from fcnet.report.page import ensure_report
from fcnet.runtime import distributed
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.formatting import format_count
from fcnet.runtime.signals import Interrupted, defer_signals
from fcnet.runtime.startup import command_line
from fcnet.sweep.ranking import format_mean_std, format_settings, ranking_table, verdict
from fcnet.sweep.search_space import parse_space
from fcnet.sweep.study import Pruning, SweepPlan, quiet_optuna
from fcnet.sweep.trials import NoFigureError, Pruned, Sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import torch

    from fcnet.config.selection import Criterion
    from fcnet.sweep.search_space import SearchSpace
    from fcnet.sweep.trials import SweepTrial


def main(arguments: list[str]) -> int:
    """Parses the arguments, trains and prints results; returns the exit code."""
    flags = _parse_flags(arguments)
    file = find_config(flags.config, "CONFIG")
    space = parse_space(file, flags.set, flags.grid or flags.search, search=bool(flags.search))
    device = cli.choose_device(flags.device)
    folder = flags.out or Path("sweeps") / file.stem
    space.config({}, space.base.seed + flags.seeds - 1)  # refuses a seed that is too large
    # A database URL may hold a password, which is not printed.
    command = "the same command" if flags.storage else f"{command_line('sweep')} {shlex.join(arguments)}"
    resume_hint = f"resume with: {command}"
    with quiet_optuna(), contextlib.closing(CommandRecord("sweep", _without_storage(arguments))) as record:
        plan = SweepPlan(space, flags.seeds, flags.trials or space.num_trials(), flags.prune, _check_data(space, file))
        sweep = Sweep(plan, folder, flags.storage)
        try:
            return _run_trials(sweep, device, resume_hint, record) or _print_outcome(sweep)
        except Interrupted as interrupted:
            cli.print_status(f"stopped; {resume_hint}")
            return 128 + interrupted.number


def _without_storage(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments without ``--storage`` and its URL, which may hold a password."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if "--storage" not in (before, argument) and not argument.startswith("--storage=")
    ]


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "sweep",
        "Train a configuration with many settings and several seeds, and rank the settings.",
        ["digits --grid 'model.hidden=[[64],[256]]' --seeds 3", "digits --search optimizer.lr=1e-4..1e-1 --trials 20"],
    )
    parser.add_config("config")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=[…]",
        help="try each value of a TOML list; may be repeated for all combinations",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="append", default=[], metavar="KEY=LOW..HIGH",
        help="search a range (append :log or :linear for the scale) or a list; may be repeated",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials of --search")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each trial (default: 1)")
    parser.add_argument(
        "--prune",
        choices=get_args(Pruning),
        default="none",
        metavar="RULE",
        help="prune unpromising trials: none, median or halving (default: none)",
    )
    parser.add_set()
    parser.add_out("sweep folder (default: sweeps/NAME for CONFIG NAME)")
    parser.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="database that several machines share (default: a file in the folder)",
    )
    parser.add_device()
    flags = parser.parse(arguments)
    if bool(flags.grid) == bool(flags.search):
        raise UserError("give either --grid KEY=[…] or --search KEY=LOW..HIGH; --search takes lists as well")
    if bool(flags.search) != (flags.trials is not None):
        raise UserError("--search and --trials N must be given together")
    for name in ("seeds", "trials"):
        if (value := getattr(flags, name)) is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if (ranks := distributed.launch_variable("WORLD_SIZE", default=1)) > 1:
        raise UserError(f"a sweep must be started as one process, once for each worker, got {ranks} ranks")
    return flags


def _check_data(space: SearchSpace, file: Path) -> str:
    """Checks that the images suit every trial; returns their fingerprint."""
    with cli.show_decoding() as progress:
        store = open_data(space.base.data, progress)
    if not (space.base.data.validation or len(store.validation.labels)):
        raise UserError(
            f"data.validation ({file}) must be greater than 0 for a sweep, which ranks trials by it, got 0.0"
        )
    errors: dict[str, None] = {}  # in order, without duplicates
    for config in space.checked_configs:
        try:
            check_data(config, store)
        except UserError as error:
            errors |= dict.fromkeys(error.args)
    if errors:
        raise UserError(*errors)
    return store.fingerprint


def _run_trials(sweep: Sweep, device: torch.device, resume_hint: str, record: CommandRecord | None = None) -> int:
    """Works on the sweep until no trial is left; returns 0, or the exit code after a signal."""
    plan = sweep.plan
    cli.print_status(
        f"{format_count(plan.num_trials, 'trial')} with {format_count(plan.num_seeds, 'seed')} each, "
        f"ranked by {plan.criterion.label}; {sweep.folder}"
    )
    for trial in sweep.trials():
        cli.print_status(f"trial {trial.number} of {plan.num_trials}: {format_settings(trial.settings)}")
        try:
            for seed in plan.seeds:
                if code := _run_seed(trial, seed, plan.criterion, device, resume_hint, record):
                    return code
        except Pruned:
            trial.prune()
            cli.print_status("  pruned: worse than other trials after as many epochs")
        except (NonFiniteError, NoFigureError) as error:
            trial.fail(str(error))
            cli.print_status(f"  failed: {error}")
        else:
            trial.finish()
        sweep.write()
    return 0


def _run_seed(
    trial: SweepTrial,
    seed: int,
    criterion: Criterion,
    device: torch.device,
    resume_hint: str,
    record: CommandRecord | None,
) -> int:
    """Trains one run of a trial to its end; returns 0, or the exit code after a signal."""
    with trial.lock(seed):
        run = trial.run(seed)
        if not run.finished:
            experiment = build(trial.config(seed), device, run=run)
            with defer_signals() as received_signal:
                try:
                    cli.show_progress(
                        experiment.training,
                        trial.run_experiment(
                            experiment,
                            run,
                            seed,
                            stop=lambda: received_signal() > 0,
                            note=lambda line: cli.print_status(f"  note: {line}"),
                            record=record,
                        ),
                        lines=False,
                    )
                except Stopped:
                    cli.print_status(
                        f"stopped and saved in epoch {experiment.training.epoch + 1} of {run.path}; {resume_hint}"
                    )
                    return 128 + (received_signal() or signal.SIGTERM)
            ensure_report(run, experiment.test)
        # A run that continued to more epochs would no longer be that of its trial.
        run.checkpoints.clear()
        result = trial.record_result(run, seed)
        cli.print_status(
            f"  seed {seed}: {criterion.label} {criterion.format(result.value)} after "
            f"{format_count(result.epochs, 'epoch')} in {result.seconds:.1f} s; {run.path}"
        )
        return 0


def _print_outcome(sweep: Sweep) -> int:
    """Prints the ranking and the verdict; returns the exit code, which is 2 if every trial failed."""
    outcome = sweep.write()
    for line in _align_columns(*ranking_table(outcome.trials)):
        cli.print_status(line)
    if outcome.num_unfinished:
        cli.print_status(
            f"{outcome.num_unfinished} of {format_count(sweep.plan.num_trials, 'trial')} unfinished: "
            "other processes work on them, or were stopped"
        )
    cli.print_status(f"by {sweep.plan.criterion.label}, {verdict(outcome.trials)}")
    if outcome.best is not None and outcome.test_accuracy is not None:
        test_accuracy = f"{format_mean_std(*outcome.test_accuracy)} (n = {len(outcome.best.runs)})"
        cli.print_status(f"test accuracy of trial {outcome.best.number}, computed after the choice: {test_accuracy}")
    cli.print_status(f"written to {sweep.folder}: sweep.html, sweep.json, sweep.csv")
    if outcome.best or outcome.num_unfinished:
        return 0
    return cli.print_error("no trial finished; the table shows why")


def _align_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a table as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


if __name__ == "__main__":
    cli.run_command(main)
