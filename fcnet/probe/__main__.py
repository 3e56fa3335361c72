"""``python -m fcnet.probe``: fits logistic regressions to features, and chooses the penalty on held-out examples."""

from __future__ import annotations

import contextlib
import shlex
import signal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fcnet import cli
from fcnet.experiment.build_training import rank_threads
from fcnet.experiment.image_classifier import load
from fcnet.experiment.provenance import CommandRecord
from fcnet.experiment.run_folder import claim_folder
from fcnet.experiment.runner import Stopped
from fcnet.probe.arguments import (
    DEFAULT_CS,
    DEFAULT_VALIDATION,
    Settings,
    check_agreement,
    parse_flags,
    parse_penalties,
)
from fcnet.probe.procedure import plan, run_phases
from fcnet.probe.results import choice_advice, convergence_warnings, write_results
from fcnet.probe.run import NAME, ProbeRecord, ProbeRun, check_new, describe_no_probe, find_run
from fcnet.probe.splits import few_shot_rows, make_splits
from fcnet.probe.training_data import open_training_data
from fcnet.probe.work import Work
from fcnet.report.page import ensure_report
from fcnet.runtime import distributed, memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_duration
from fcnet.runtime.hardware import MAX_THREADS
from fcnet.runtime.signals import defer_signals
from fcnet.runtime.startup import command_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fcnet.probe.arguments import Flags
    from fcnet.probe.procedure import Phase
    from fcnet.probe.training_data import TrainingData


def main(arguments: list[str]) -> int:
    """Parses the arguments, fits, chooses and writes the results; returns the exit code."""
    flags = parse_flags(arguments)
    run, record = _find_run(flags), None
    with contextlib.ExitStack() as stack:
        if run is not None:
            if distributed.is_first_process():
                stack.enter_context(run.run.lock())
            record = run.record()
            check_agreement(record.settings, flags.given)
            if run.finished:
                return _show_finished(run) if distributed.is_first_process() else 0
        command = CommandRecord("probe", arguments)
        stack.callback(command.close)
        device = cli.choose_device(flags.device, needs_float64=True)
        stack.enter_context(cli.process_group(device))
        return _probe(run, record, flags, command, device, stack)


def _find_run(flags: Flags) -> ProbeRun | None:
    """Finds the run to resume; None for a new one, whose folder is checked."""
    run = find_run(flags.out) if flags.resume else None
    if run is not None:
        return run
    if flags.features is None:
        if flags.out is None:
            raise UserError(f"--resume found no probe in runs; name its folder: {command_line('probe')} --resume RUN")
        raise UserError(f"--resume needs the run folder of a probe, got {flags.out}: {describe_no_probe(flags.out)}")
    check_new(flags.out, flags.out_flag)
    return None


def _probe(
    run: ProbeRun | None,
    record: ProbeRecord | None,
    flags: Flags,
    command: CommandRecord,
    device: torch.device,
    stack: contextlib.ExitStack,
) -> int:
    """Does what is left of a run, or of a new one; returns the exit code. All ranks take part."""
    torch.set_num_threads(_choose_threads(record))
    # Each rank reads all features: it needs all labels, and the digest tells whether all ranks see the same.
    with distributed.long_work():
        features, settings, data = _open(flags, run, record)
    _check_shared(run, features, data)
    if run is None or record is None:
        record = _make_record(features, settings, data, device)
        run = _create_run(flags.out, record, stack)
    for line in _notes(record, device):
        cli.print_status(f"note: {line}")
    if distributed.rank() == 0:
        run.run.remove_temporary_files()
        run.run.add_command(command.to_dict({}), lambda line: cli.print_status(f"note: {line}"))
        run.state.mkdir(exist_ok=True)
    _describe_start(run, data, settings, device)
    try:
        return _work(run, str(features), settings, data, device, flags.save_seconds)
    except distributed.LostRankError as error:
        raise UserError(f"{error}; resume with: {_resume_command(run)}") from error


def _check_shared(run: ProbeRun | None, features: Path, data: TrainingData) -> None:
    """Checks that all ranks resume the same run, or that none does, and see the same features."""
    folders = distributed.all_gather(run is not None and str(run.path))
    if different := [str(rank) for rank, folder in enumerate(folders) if folder != folders[0]]:
        raise UserError(
            "--resume needs a run folder that all ranks see, on a shared file system: "
            f"rank {', '.join(different)} sees another one than rank 0"
        )
    fingerprints = distributed.all_gather(data.fingerprint)
    if different := [str(rank) for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]:
        raise UserError(
            f"{features} must hold the same examples on all ranks: rank {', '.join(different)} sees others than rank 0"
        )


def _create_run(out: Path | None, record: ProbeRecord, stack: contextlib.ExitStack) -> ProbeRun:
    """Creates and locks a run folder on the first rank; tells the others its path."""
    path = ""
    if distributed.rank() == 0:
        run = ProbeRun(claim_folder(out, NAME))
        stack.enter_context(run.run.lock())
        run.write_record(record)
        path = str(run.path)
    return ProbeRun(Path(distributed.broadcast(path)))


def _open(flags: Flags, run: ProbeRun | None, record: ProbeRecord | None) -> tuple[Path, Settings, TrainingData]:
    """Opens the features, and checks that the settings fit them, before anything is written."""
    given = flags.given if record is None else record.settings.model_dump()
    features = flags.features or Path(record.features if record else "")
    columns = {
        name: given.get(name, Settings.model_fields[name].default) for name in ("feature_column", "label_column")
    }
    with cli.say_if_slow("reading the features"), memory.phase("reading the data"):
        data = open_training_data(features, **columns)
    if record is None or run is None:
        settings = _complete(flags.given, data, features)
    else:
        settings = record.settings
        if data.fingerprint != record.data:
            raise UserError(
                f"{run.path} was begun with other training or validation examples than {features} holds now"
            )
    make_splits(data, settings)
    if settings.shots and not data.has_test:
        raise UserError(f"--shots must be left out for {features}, which has no test split to evaluate its fits on")
    for shots in settings.shots[-1:]:
        few_shot_rows(data, shots, 0, settings.seed)
    return features, settings, data


def _complete(given: dict[str, Any], data: TrainingData, features: Path) -> Settings:
    """Returns the given settings with defaults for the others."""
    settings = {"Cs": parse_penalties(DEFAULT_CS)} | given
    if data.num_train < len(data.y):
        if "validation" in given:
            raise UserError(f"--validation must be left out for {features}, which has a validation split")
    elif "folds" not in given:
        settings.setdefault("validation", DEFAULT_VALIDATION)
    return Settings(**settings)


def _make_record(features: Path, settings: Settings, data: TrainingData, device: torch.device) -> ProbeRecord:
    return ProbeRecord(
        features=str(features),
        settings=settings,
        data=data.fingerprint,
        threads=torch.get_num_threads(),
        device=str(device),
        ranks=distributed.world_size(),
        fcnet=version("fcnet"),
        torch=str(torch.__version__),
    )


def _choose_threads(record: ProbeRecord | None) -> int:
    """Returns the number of threads of an interrupted run, which may change the last bits, or this machine's."""
    return record.threads if record is not None and 1 <= record.threads <= MAX_THREADS else rank_threads()


def _notes(record: ProbeRecord, device: torch.device) -> list[str]:
    """Returns a line for each thing that may change the last bits of a resumed run."""
    now = {
        "device": str(device),
        "ranks": distributed.world_size(),
        "fcnet": version("fcnet"),
        "torch": str(torch.__version__),
    }
    return [
        f"the run began with {name} {getattr(record, name)} and continues with {value}; "
        "the result may not be that of an uninterrupted run to the last bit"
        for name, value in now.items()
        if getattr(record, name) != value
    ]


def _describe_start(run: ProbeRun, data: TrainingData, settings: Settings, device: torch.device) -> None:
    own = len(data.y) - data.num_train
    splits = f"{data.num_train:,} training" + (f" and {own:,} validation" if own else "")
    cli.print_status(
        f"{splits} examples of {format_count(data.num_features, 'feature')} in {len(data.classes):,} classes; "
        f"{_describe_protocol(settings)}; {device}, {format_count(torch.get_num_threads(), 'thread')}"
        f"{f', {distributed.world_size()} ranks' * (distributed.world_size() > 1)}; {run.path}"
    )
    for note in data.notes:
        cli.print_status(f"note: {note}")
    if not data.has_test:
        cli.print_status("note: there is no test split, so there will be no test figures")


def _describe_protocol(settings: Settings) -> str:
    penalties = f"{len(settings.Cs)} penalties" if len(settings.Cs) > 1 else "1 penalty"
    if settings.folds:
        return f"{penalties}, {settings.folds} folds"
    share = "the validation split" if settings.validation is None else f"{settings.validation:g} of each class"
    return f"{penalties}, held out: {share}"


class _Screen:
    """Prints a line for each phase, and shows a bar of the whole work with the time left."""

    def __init__(self, phases: list[Phase], show: Callable[[float, str, str], None]) -> None:
        self._show, self._total = show, sum(phase.size for phase in phases)
        self._done, self._phase = 0.0, phases[0]

    def begin(self, phase: Phase) -> None:
        """Names the phase in the bar, once something of it is done."""
        self._phase = phase

    def show(self, fraction: float, phrase: str) -> None:
        """Moves the bar to a fraction of the phase."""
        self._show((self._done + fraction * self._phase.size) / self._total, self._phase.name, phrase)

    def end(self, phase: Phase, line: str) -> None:
        """Prints what the phase found."""
        self._done += phase.size
        cli.print_status(f"{phase.name}: {line}")


def _work(
    run: ProbeRun, features: str, settings: Settings, data: TrainingData, device: torch.device, save_seconds: float
) -> int:
    """Does what is left of the work, and writes the results; returns the exit code."""
    x = data.features(normalize=settings.l2_normalize)
    with defer_signals() as received_signal, cli.show_fraction() as show:
        screen = _Screen(plan(data, settings), show)
        work = Work(
            run,
            settings,
            device,
            save_seconds=save_seconds,
            stop=lambda: received_signal() > 0,
            show=screen.show,
            note=lambda line: cli.print_status(f"note: {line}"),
        )
        try:
            with memory.phase("fitting the regressions"):
                outcome = run_phases(work, data, x, settings, screen)
        except Stopped:
            cli.print_status(f"stopped and saved; resume with: {_resume_command(run)}")
            return 128 + (received_signal() or signal.SIGTERM)
    with cli.say_if_slow("evaluating the chosen model"), memory.phase("saving the run"):
        notes = write_results(run, features, settings, data, x, outcome, device, work.seconds)
    for note in (*(note for note in notes if note not in data.notes), *choice_advice(outcome, settings)):
        cli.print_status(f"note: {note}")
    for warning in convergence_warnings(outcome, settings):
        cli.print_error(f"note: {warning}")
    if distributed.rank() > 0:  # they may not see the folder
        return 0
    with cli.say_if_slow("writing the report"):
        ensure_report(run.run)
    run.remove_state()
    return _print_result(run)


def _resume_command(run: ProbeRun) -> str:
    return f"{command_line('probe')} --resume {shlex.quote(str(run.path))}"


def _print_result(run: ProbeRun) -> int:
    """Prints the result of a finished run; returns the exit code."""
    cli.print_status(_format_result(run))
    report = f"report: {run.path / 'report.html'}; " if (run.path / "report.html").is_file() else ""
    cli.print_status(f"{report}next: {command_line('evaluate')} {shlex.quote(str(run.path))}")
    return 0


def _show_finished(run: ProbeRun) -> int:
    """Checks a finished run, adds what is missing, and prints its result; returns the exit code."""
    result = _format_result(run)
    load(run.path)
    run.remove_state()
    run.run.remove_temporary_files()
    ensure_report(run.run)
    cli.print_status(f"{run.path} is finished: {result}")
    return 0


def _format_result(run: ProbeRun) -> str:
    summary = run.run.summary()
    probe = summary["probe"]
    chosen = next(each for each in probe["penalties"] if each["C"] == probe["C"])
    validation = cli.format_accuracy(chosen["accuracy"], chosen["accuracy_interval"])
    held_out = f"held-out accuracy {validation} at C = {probe['C']:g}"
    seconds = format_duration(summary["train_seconds"])
    if summary["test_accuracy"] is None:
        return f"{held_out} after {seconds} of fitting; no test split"
    test = cli.format_accuracy(summary["test_accuracy"], summary["test_interval"])
    examples = format_count(summary["test_images"], "example")
    return f"test accuracy {test} on {examples}; {held_out} after {seconds} of fitting"


if __name__ == "__main__":
    cli.run_command(main)
