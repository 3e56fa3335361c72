"""``python -m fcnet.train``: trains the network that a configuration describes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcnet import cli
from fcnet.arguments import Parser, run_folder_of
from fcnet.config.presets import config_name, find_config, list_presets, preset_summary
from fcnet.config.selection import CRITERIA
from fcnet.config.toml import check_agreement, config_sources, dump_config, load_config
from fcnet.evaluation.prediction_files import ensure_mistakes
from fcnet.experiment.build import build
from fcnet.experiment.extension import check_extension
from fcnet.experiment.image_classifier import load
from fcnet.experiment.provenance import CommandRecord
from fcnet.experiment.run_folder import Run, check_new, claim_folder, describe_no_run
from fcnet.experiment.runner import Stopped, run_experiment
from fcnet.experiment.tensorboard import EventLog, check_tensorboard, has_events, log_to_tensorboard
from fcnet.report.page import ensure_report
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import NonFiniteError, UserError
from fcnet.runtime.files import write_bytes, write_text
from fcnet.runtime.formatting import format_count, format_percent
from fcnet.runtime.signals import defer_signals
from fcnet.runtime.startup import command_line
from fcnet.training.lr_finder import lr_range_test, suggest_lr
from fcnet.training.records import EpochRecord

_MAY_CHANGE = ("data.path", "train.epochs")
"""The settings that ``--set`` may change in a run that continues."""

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from fcnet.config.schema import Config
    from fcnet.experiment.build import Experiment
    from fcnet.training.loop import Training


def main(arguments: list[str]) -> int:
    """Parses the arguments, trains and prints progress; returns the exit code."""
    flags = _parse_flags(arguments)
    if flags.list:
        _print_presets()
        return 0
    name = flags.config.stem if flags.config else ""
    run = Run.find(flags.out, name) if flags.resume else None
    config = _read_config(flags, run)
    if flags.print_config:
        _print_config(config)
        return 0
    tensorboard = flags.tensorboard or (run is not None and has_events(run.path))
    if tensorboard:
        check_tensorboard()
    if run is None and flags.out is not None:
        Run(flags.out).check_unlocked()
        check_new(flags.out, flags.out_flag)
    # Released when the command ends. Of the processes of a distributed run, the first holds it.
    with contextlib.ExitStack() as lock:
        if run is not None and distributed.is_first_process():
            lock.enter_context(run.lock())
        if run is not None and run.finished and config.train.epochs == run.load_config().train.epochs:
            return _show_finished(run, tensorboard=tensorboard)
        command = CommandRecord("train", arguments)
        lock.callback(command.close)
        describe_command = partial(command.to_dict, _setting_sources(flags, run))
        device = cli.choose_device(flags.device)
        with cli.process_group(device):
            if flags.find_lr:
                return _find_lr(config, flags.out or Path("runs") / f"{name}-lr", device)
            return _train(config, run, name, flags.out, lock, describe_command, device=device, tensorboard=tensorboard)


def _setting_sources(flags: argparse.Namespace, run: Run | None) -> dict[str, str]:
    """Returns where the settings come from that the command gives, by dotted key."""
    if run is not None:  # it keeps all settings but those that may change
        return {override.partition("=")[0].strip(): "--set" for override in filter(_may_change, flags.set)}
    return config_sources(flags.config, flags.set, name=config_name(flags.config))


def _show_finished(run: Run, *, tensorboard: bool) -> int:
    """Checks a finished run, adds what is missing, and prints its result; returns the exit code."""
    records, _, result = _read_records(run), run.snapshots(), _format_result(run)
    load(run.path)
    ensure_mistakes(run.path)
    run.clean_up()
    ensure_report(run)
    if tensorboard:
        EventLog(run.path, records, run.load_config().train.select).close()
    cli.print_status(f"{run.path} is finished: {result}")
    return 0


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments. ``config`` is a file and ``config_flag`` names its argument; ``out`` may be RUN."""
    parser = Parser(
        "train",
        "Train the network that a configuration describes.",
        ["digits --set train.epochs=5", "--resume runs/digits"],
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="TOML file or name of a preset")
    parser.add_argument("--config", dest="named_config", metavar="CONFIG", help="the same")
    parser.add_set()
    parser.add_out("run folder (default: runs/NAME for CONFIG NAME)")
    parser.add_device()
    parser.add_resume("continue a run from its last checkpoint (default: --out, or the newest of CONFIG)")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events to the run folder")
    parser.add_argument("--find-lr", action="store_true", help="run a learning-rate range test instead of training")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and exit")
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    flags = parser.parse(arguments)
    _choose_config(flags)
    _choose_run(flags)
    if flags.list:
        return flags
    if flags.config is None and not (flags.resume and flags.out):
        raise UserError(
            f"--resume needs a run folder: {parser.prog} --resume runs/NAME"
            if flags.resume
            else f"CONFIG is missing: {parser.prog} digits trains the preset digits, {parser.prog} --list lists all"
        )
    if flags.find_lr and flags.resume:
        raise UserError("--find-lr must be given without --resume")
    if flags.config is None and (others := [each for each in flags.set if not _may_change(each)]):
        raise UserError(
            f"--set {others[0]}: a run that continues takes another {' or '.join(_MAY_CHANGE)}, nothing else"
        )
    return flags


def _choose_config(flags: argparse.Namespace) -> None:
    """Finds the configuration, which is the first argument or the value of ``--config``."""
    given, named = flags.config, flags.named_config
    if None not in (given, named) and given != named:
        raise UserError(f"CONFIG is given twice, as {given} and as --config {named}; leave one out")
    flags.config_flag = "CONFIG" if named is None else "--config"
    name = named if given is None else given
    flags.config = None if name is None else find_config(name, flags.config_flag)


def _choose_run(flags: argparse.Namespace) -> None:
    """Makes the folder that ``--resume`` names the run folder, and ``resume`` a truth value."""
    name, (flags.out, flags.out_flag) = flags.resume, run_folder_of(flags)
    flags.resume = name is not None
    if name and flags.config is None and not Run(flags.out).started:
        raise UserError(f"--resume needs a run folder, got {name}: {describe_no_run(flags.out)}")


def _may_change(override: str) -> bool:
    """Returns whether ``--set`` changes a setting that a run may change when it continues."""
    return override.partition("=")[0].strip() in _MAY_CHANGE


def _print_config(config: Config) -> None:
    for line in dump_config(config).rstrip().split("\n"):
        cli.print_result(line)


def _print_presets() -> None:
    presets = list_presets()
    width = max(map(len, presets), default=0)
    for name, file in presets.items():
        cli.print_result(f"{name:{width}}  {preset_summary(file)}")


def _read_config(flags: argparse.Namespace, run: Run | None) -> Config:
    """Returns the configuration to train: that of the run to resume, which a given one must equal, or the given one.

    Only the place of the data and the number of epochs may differ, if ``--set`` names them.
    """
    given = load_config(flags.config, flags.set, flag=flags.config_flag) if flags.config else None
    if run is None:
        if given is None:
            raise UserError(f"--resume needs a run folder, got {flags.out}: {describe_no_run(flags.out)}")
        return given
    if run.is_probe:
        path = shlex.quote(str(run.path))
        raise UserError(f"{run.path} is a run of probe, which {command_line('probe')} --resume {path} continues")
    stored = run.load_config()
    if changes := [each for each in flags.set if _may_change(each)]:
        stored = check_extension(run, stored, load_config(run.config, changes))
    if given is not None:
        check_agreement(given, stored, flags.config, run.config)
    return stored


def _train(
    config: Config,
    run: Run | None,
    name: str,
    out: Path | None,
    lock: contextlib.ExitStack,
    describe_command: Callable[[], dict[str, Any]],
    *,
    device: torch.device,
    tensorboard: bool,
) -> int:
    with cli.say_if_slow("preparing the data"), cli.show_decoding() as progress:
        experiment = build(config, device, progress, run=run)
    _check_shared(run)
    if run is None:
        # One rank creates the folder, whose name may get a number, and tells the others.
        path = str(_create_run(config, out, name, lock)) if distributed.rank() == 0 else ""
        run = Run(Path(distributed.broadcast(path)))
    _describe_start(experiment, run)
    training = experiment.training

    def note(line: str) -> None:
        cli.print_status(f"note: {line}")

    with defer_signals() as received_signal:
        try:
            events = run_experiment(
                experiment,
                run,
                save_seconds=config.train.save_seconds,
                stop=lambda: received_signal() > 0,
                note=note,
            )
            _keep_command(run, describe_command, note)
            cli.show_progress(training, _log_events(events, run, training) if tensorboard else events)
        except Stopped:
            cli.print_status(
                f"stopped and saved in epoch {training.epoch + 1} of {config.train.epochs}, step {training.step}; "
                f"resume with: {_resume_command(run)}"
            )
            return 128 + (received_signal() or signal.SIGTERM)
        except NonFiniteError as error:
            return cli.print_error(f"{error}. {_describe_checkpoint(run)}")
        except distributed.LostRankError as error:
            raise UserError(f"{error}; {_describe_saved(run)}, resume with: {_resume_command(run)}") from error
        except (MemoryError, RuntimeError) as error:
            in_step = memory.describe_phase(error) == " while making a training step"
            if experiment.free_bytes is None or not in_step or not memory.is_out_of_memory(error):
                raise
            raise UserError(
                experiment.memory_estimate.out_of_memory_message(
                    experiment.free_bytes,
                    batch_size=experiment.training.batches.batch_size,
                    ranks=distributed.world_size(),
                )
            ) from None
    return _finish(run, experiment)


def _keep_command(run: Run, describe_command: Callable[[], dict[str, Any]], note: Callable[[str], None]) -> None:
    if distributed.rank() == 0:
        run.add_command(describe_command(), note)


def _describe_start(experiment: Experiment, run: Run) -> None:
    """Prints what is trained, and what the user should know about it."""
    cli.print_status(f"{experiment.describe()}; {run.path}")
    for note in (*experiment.notes, *_loss_notes(experiment.config)):
        cli.print_status(note)
    if distributed.rank() == 0 and run.finished:
        cli.print_status(
            f"note: the run continues to epoch {experiment.config.train.epochs}, where the test images are read again; "
            "choose train.epochs by the validation accuracy: chosen by the test accuracy, that would be too high"
        )


def _create_run(config: Config, out: Path | None, name: str, lock: contextlib.ExitStack) -> Path:
    """Creates a run folder and locks it; returns its path."""
    folder = claim_folder(out, name)
    lock.enter_context(Run(folder).lock())
    return Run.create(folder, name, dump_config(config)).path


def _check_shared(run: Run | None) -> None:
    """Checks that all ranks resume from the same checkpoint."""
    states = distributed.all_gather((run is not None, run and run.checkpoints.saved_step))
    if different := [str(rank) for rank, state in enumerate(states) if state != states[0]]:
        raise UserError(
            "--resume needs a run folder that all ranks see, on a shared file system: "
            f"rank {', '.join(different)} sees other checkpoints than rank 0"
        )


def _finish(run: Run, experiment: Experiment) -> int:
    """Writes the report and prints the warnings and the result of a finished run; returns the exit code."""
    if distributed.rank() == 0:  # other ranks may not see the folder
        with cli.say_if_slow("writing the report"):
            ensure_report(run, experiment.test)
        for warning in run.summary()["warnings"]:
            cli.print_status(f"note: {warning}")
        cli.print_status(_format_result(run))
        if (calibration := run.summary().get("calibration")) is not None:
            cli.print_status(_format_calibration(calibration))
        report = f"report: {run.path / 'report.html'}; " if (run.path / "report.html").is_file() else ""
        cli.print_status(f"{report}next: {command_line('evaluate')} {shlex.quote(str(run.path))}")
    return 0


def _loss_notes(config: Config) -> list[str]:
    """Returns one line if the training loss is of other targets than the validation loss."""
    mixed = [name for name in ("mixup", "cutmix") if getattr(config.data.augment, name)]
    if mixed:
        figures = f"training loss and accuracy are those of mixed images ({' and '.join(mixed)})"
    elif config.train.label_smoothing:
        figures = (
            f"the training loss is that of smoothed labels (train.label_smoothing={config.train.label_smoothing:g})"
        )
    else:
        return []
    return [f"note: {figures}, which validation does not use: do not compare the two"]


def _log_events(events: Iterator[EpochRecord | None], run: Run, training: Training) -> Iterator[EpochRecord | None]:
    """Returns the same events. The first rank also writes them for TensorBoard, after those up to the checkpoint."""
    if distributed.rank() == 0:
        completed = _read_records(run)[: training.epoch]
        return log_to_tensorboard(events, run.path, completed, training.algorithm.select)
    return events


def _read_records(run: Run) -> list[EpochRecord]:
    return [EpochRecord(**record) for record in run.records()]


def _find_lr(config: Config, folder: Path, device: torch.device) -> int:
    """Runs the learning-rate range test; writes its losses and a plot of them to ``folder``."""
    from fcnet.figures.sheets import lr_curve  # matplotlib takes long to import
    from fcnet.figures.style import THEMES, figure_bytes, use_theme

    experiment = build(config, device)
    torch.set_num_threads(experiment.threads)
    with memory.phase("making a training step"):
        trials = list(lr_range_test(experiment.training))
    best, suggestion = min(trials, key=lambda trial: trial.smoothed), suggest_lr(trials)
    plot = folder / f"lr-{THEMES[0].name}.png"
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "lr.jsonl", "".join(json.dumps(dataclasses.asdict(trial)) + "\n" for trial in trials))
        lrs, losses, smoothed = zip(*map(dataclasses.astuple, trials), strict=True)
        for theme in THEMES:
            with use_theme(theme):
                files = figure_bytes(lr_curve(lrs, losses, smoothed, suggestion))
            for form, image in files.items():
                write_bytes(folder / f"lr-{theme.name}.{form}", image)
    cli.print_status(
        f"tried {format_count(len(trials), 'learning rate')} from {trials[0].lr:g} to {trials[-1].lr:.2g}; "
        f"lowest loss {best.smoothed:.4f} at {best.lr:.2g}; a tenth of that is a good start: "
        f"--set optimizer.lr={suggestion:g} (now {config.optimizer.lr:g}); plot: {plot}"
    )
    return 0


def _describe_checkpoint(run: Run) -> str:
    """Returns the end of the message for a run that met NaN or infinity."""
    return (
        "Begin a new run: this one keeps its settings and would fail in the same step again; "
        f"{_describe_saved(run)} in {run.path}"
    )


def _describe_saved(run: Run) -> str:
    if not run.started:
        return "rank 0 has its checkpoints"
    return (
        "nothing was saved"
        if run.checkpoints.saved_step is None
        else f"the checkpoint of step {run.checkpoints.saved_step} is kept"
    )


def _resume_command(run: Run) -> str:
    return f"{command_line('train')} --resume {shlex.quote(str(run.path))}"


def _format_result(run: Run) -> str:
    summary = run.summary()
    best_epoch, epochs = summary["best_epoch"], summary["epochs"]
    figure = CRITERIA[run.load_config().train.select].label
    return (
        f"test accuracy {cli.format_accuracy(summary['test_accuracy'], summary['test_interval'])} "
        f"on {format_count(summary['test_images'], 'image')} after {summary['train_seconds']:.1f} s of training"
        + (f"; weights of epoch {best_epoch} of {epochs}, the best by {figure}" if best_epoch < epochs else "")
    )


def _format_calibration(calibration: dict[str, Any]) -> str:
    before, after = calibration["test"]["before"], calibration["test"]["after"]
    errors = [format_percent(figures["calibration_error"]) for figures in (before, after)]
    return f"temperature {calibration['temperature']:.4g}: test calibration error {errors[0]} before, {errors[1]} after"


if __name__ == "__main__":
    cli.run_command(main)
