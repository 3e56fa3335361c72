"""Runs an experiment in its run folder: restore, train, take snapshots, save, finish."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import torch

from fcnet.config.selection import CRITERIA
from fcnet.diagnostics import advice, idle_units
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.evaluation.metric_values import summary_entries
from fcnet.evaluation.prediction_files import write_predictions
from fcnet.evaluation.selection import evaluate_by
from fcnet.experiment.calibration import calibrate
from fcnet.experiment.environment import describe_environment
from fcnet.experiment.run_folder import nan_to_none
from fcnet.experiment.run_identity import check_identity, identity_notes, run_identity
from fcnet.experiment.run_schema import CheckpointEntries, check_object
from fcnet.experiment.snapshots import Snapshots, chosen_interval, max_share
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.optim.state import select_prefix
from fcnet.runtime import distributed, memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.evaluation.classification import Evaluation
    from fcnet.experiment.build import Experiment
    from fcnet.experiment.run_folder import Run
    from fcnet.training.records import EpochRecord

_STEPS_BETWEEN_SYNCS = 16


class Stopped(Exception):  # noqa: N818 - a request that was carried out, not an error
    """The run stopped on request, after saving a checkpoint."""


def run_experiment(
    experiment: Experiment,
    run: Run,
    *,
    save_seconds: float,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[EpochRecord | None]:
    """Restores the last checkpoint, if there is one, and returns an iterator that trains to the end.

    At the end the iterator evaluates on the test set, once, and writes the model, the predictions and the summary.

    Args:
        experiment: the experiment, not yet trained.
        run: its run folder.
        save_seconds: the seconds between checkpoints; 0 saves one after every step.
        stop: called between steps; if it returns True, the iterator saves a checkpoint and raises `Stopped`.
        note: called with one line for each thing that the user should know about the restored run.

    Returns:
        An iterator that yields None after each step and a record after each epoch.

    Raises:
        UserError: the checkpoint belongs to other data or to another configuration.
    """
    torch.set_num_threads(experiment.threads)
    if distributed.rank() == 0:
        run.remove_temporary_files()
    metadata = _restore(experiment, run, note)
    records, snapshots = metadata.get("records", []), metadata.get("snapshots", [])
    if distributed.rank() == 0:
        if experiment.initial is not None:
            experiment.initial.save(run)
        run.rewind(records, snapshots, note)
        config, wanted = run.load_config(), experiment.config
        run.keep_config(note)
        if (config.data.path, config.train.epochs) != (wanted.data.path, wanted.train.epochs):
            run.change_config(wanted)
    if metadata and metadata["config"]["train.epochs"] < experiment.config.train.epochs:
        snapshots = _continue_training(experiment, run, records, snapshots)
    return _train(experiment, run, records, snapshots, save_seconds, stop)


def _restore(experiment: Experiment, run: Run, note: Callable[[str], None]) -> dict[str, Any]:
    """Restores the last checkpoint and returns its metadata; empty without a checkpoint."""
    checkpoint = run.checkpoints.latest(note)
    if checkpoint is None:
        return {}
    tensors, metadata = checkpoint
    check_object(CheckpointEntries, metadata, run.path / "checkpoints")
    check_identity(metadata, experiment, run.path)
    for line in identity_notes(metadata, run.path):
        note(line)
    torch.set_num_threads(metadata["threads"])  # sums over several threads depend on their number
    experiment.training.restore(tensors, metadata)
    if experiment.classifier.whitening is not None:
        experiment.classifier.whitening.load_state_dict(select_prefix(tensors, "whitening"))
    return metadata


def _continue_training(
    experiment: Experiment, run: Run, records: list[dict[str, Any]], snapshots: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Makes the checkpoint of a run with fewer epochs one of this run, and returns its snapshots; collective."""
    every = experiment.diagnostics_every
    if every and not experiment.training.ended:
        # A run with this many epochs has no snapshot of the former end.
        snapshots = [snapshot for snapshot in snapshots if snapshot["epoch"] % every == 0]
    if distributed.rank() == 0:
        run.write_snapshots(snapshots)
    with memory.phase("saving the run"):
        _save(experiment, run, records, snapshots)
    return snapshots


def _train(
    experiment: Experiment,
    run: Run,
    records: list[dict[str, Any]],
    snapshots: list[dict[str, Any]],
    save_seconds: float,
    stop: Callable[[], bool],
) -> Iterator[EpochRecord | None]:
    training = experiment.training
    saved, stopping = time.monotonic(), False
    take_snapshot = _snapshot_fn(experiment, run, snapshots)
    with distributed.long_work():
        take_snapshot()
    for record in training.advance():
        if record is not None:
            records.append(_to_line(record, experiment))
            with distributed.long_work():
                if distributed.rank() == 0:
                    run.write_records(records)
                take_snapshot()
        # All ranks must save and stop at the same step. Agreeing on it takes a sync, so they do it now and then.
        if record is not None or distributed.world_size() == 1 or training.step % _STEPS_BETWEEN_SYNCS == 0:
            stopping = distributed.any_rank(stop())
            # The last state is saved before the best or averaged weights replace those that more epochs continue from.
            if stopping or training.ended or distributed.any_rank(time.monotonic() - saved >= save_seconds):
                with memory.phase("saving the run"):
                    _save(experiment, run, records, snapshots)
                saved = time.monotonic()
        yield record
        if stopping:
            raise Stopped
    with memory.phase("saving the run"):
        training.check_finite()
        _finish(experiment, run, records, snapshots)


def _to_line(record: EpochRecord, experiment: Experiment) -> dict[str, Any]:
    """Returns the line of an epoch in ``metrics.jsonl``, which has a score only if ``train.select`` names one."""
    line = nan_to_none(dataclasses.asdict(record))
    if CRITERIA[experiment.config.train.select].column != "validation_score":
        del line["validation_score"]
    return line


def _snapshot_fn(experiment: Experiment, run: Run, lines: list[dict[str, Any]]) -> Callable[[], None]:
    """Returns a function that adds a diagnostics snapshot if one is due; only the first rank takes any."""
    if distributed.rank() != 0 or not experiment.diagnostics_every:
        return lambda: None
    training = experiment.training
    share = max_share(training.batches.device)
    snapshots = Snapshots(training, experiment.diagnostics_every, lines, max_share=share)

    def take_snapshot() -> None:
        is_taken = bool(lines) and lines[-1]["epoch"] == training.epoch
        if snapshots.due and not is_taken:
            with memory.phase("taking a diagnostics snapshot"):
                lines.append(snapshots.take())
            run.write_snapshots(lines)

    return take_snapshot


def _save(experiment: Experiment, run: Run, records: list[dict[str, Any]], snapshots: list[dict[str, Any]]) -> None:
    """Saves a checkpoint; collective, since the state is gathered from all ranks."""
    # Fitted whitening depends on the number of threads, so it must not be fitted anew after a restore.
    whitening = experiment.classifier.whitening.state_dict() if experiment.classifier.whitening else {}
    tensors, metadata = experiment.training.state({f"whitening.{name}": x for name, x in whitening.items()})
    metadata |= {
        **run_identity(experiment),
        "threads": torch.get_num_threads(),
        "records": records,
        "snapshots": snapshots,
    }
    with distributed.long_work():
        if distributed.rank() == 0:
            run.checkpoints.save(experiment.training.step, tensors, metadata)


def _finish(experiment: Experiment, run: Run, records: list[dict[str, Any]], snapshots: list[dict[str, Any]]) -> None:
    """Evaluates on the test set and writes the model, the predictions and the summary."""
    training, classifier = experiment.training, experiment.classifier
    calibration = calibrate(experiment) if experiment.config.train.calibrate else None
    result, predictions, scores = evaluate_fully(training.model, experiment.test)
    warnings = _training_warnings(experiment, records, result)
    warnings += advice.snapshot_advice(chosen_interval(snapshots), experiment.diagnostics_every)
    figures = _validation_figures(experiment, records, is_calibrated=calibration is not None)
    if calibration is not None and calibration["reason"] is not None:
        warnings.append(f"the temperature of train.calibrate stays 1: {calibration['reason']}")
    with distributed.long_work():
        if distributed.rank() == 0:
            environment = describe_environment(experiment.test.device, seed=training.seed, data=experiment.fingerprint)
            run.remove_results()
            origin = {} if experiment.initial is None else {"init_from": experiment.initial.origin}
            classifier.save(run.path / "model", {"environment": environment, **origin})
            write_predictions(run.path, predictions, classifier.classes, experiment.fingerprint)
            summary = {
                **summary_entries(result, scores, classifier.classes),
                **figures,
                "epochs": training.epoch,
                "best_epoch": training.best_epoch,
                "steps": training.step,
                "train_seconds": training.train_seconds,
                "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
                "train_images": training.batches.num_images,
                "class_images": dict(zip(classifier.classes, _class_counts(experiment), strict=True)),
                "validation_images": training.validation.num_images if training.validation else 0,
                "test_images": experiment.test.num_images,
                "warnings": warnings,
            }
            calibrated = {} if calibration is None else {"calibration": calibration}
            run.finish(summary | environment | origin | calibrated)


def _validation_figures(
    experiment: Experiment, records: list[dict[str, Any]], *, is_calibrated: bool
) -> dict[str, float | None]:
    """Returns the validation figures of the trained model; collective if it is calibrated."""
    training, select = experiment.training, experiment.config.train.select
    names = ["validation_accuracy", "validation_loss", CRITERIA[select].column]
    figures = {name: records[training.best_epoch - 1][name] for name in names}
    if is_calibrated:  # its loss is not that of the epoch any more
        evaluation, value = evaluate_by(training.model, training.validation, select)
        figures |= {CRITERIA[select].column: value}
        figures |= {"validation_accuracy": evaluation.accuracy, "validation_loss": evaluation.loss}
    return figures


def _training_warnings(experiment: Experiment, records: list[dict[str, Any]], test: Evaluation) -> list[str]:
    """Collects the advice on a finished training; collective, since it evaluates the model."""
    training, model = experiment.training, experiment.classifier.model
    algorithm = training.algorithm
    loss = algorithm.loss
    has_lr = not isinstance(algorithm.optimizer, torch.optim.LBFGS)  # its line search chooses the step size
    lr = algorithm.optimizer.param_groups[0]["initial_lr"] if has_lr else None
    warnings = advice.score_advice(loss.name) if isinstance(loss, ScoreLoss) else []
    # The baseline is a cross-entropy, and the logistic loss of a score is one too.
    if isinstance(loss, CrossEntropy) or (isinstance(loss, ScoreLoss) and loss.name == "logistic"):
        baseline = advice.class_frequency_loss(_class_counts(experiment), loss.label_smoothing)
        warnings += advice.loss_advice(records, baseline, lr)
    warnings += advice.validation_advice(records, lr, has_hidden_layers=len(model.dense_layers()) > 1)
    evaluation = evaluate(training.model, training.validation) if training.validation else test
    warnings += advice.class_advice(evaluation.confusion, experiment.classifier.classes, steps=training.step)
    warnings += advice.cuda_graph_advice(training.graphed_steps.fallback_reason if training.graphed_steps else None)
    # Counted on all held-out images; a snapshot has few, so that a unit that is rarely active may look dead there.
    state = "dead" if model.arguments["activation"] == "relu" else "saturated"
    idle = idle_units(model, training.validation or experiment.test)
    layers = [{"layer": layer.layer, state: layer.num_idle / layer.units} for layer in idle]
    return warnings + advice.idle_unit_advice(layers, lr=lr, has_lr=has_lr, steps=training.step)


def _class_counts(experiment: Experiment) -> list[int]:
    """Counts the training images of each class."""
    batches = experiment.training.batches
    counts: list[int] = batches.selected_labels.bincount(minlength=len(experiment.classifier.classes)).tolist()
    return counts
