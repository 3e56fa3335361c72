"""A configuration's experiment from beginning to end in its run folder: train, save, go on, finish."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from fcnet.diagnostics import advice, idle_units
from fcnet.evaluation.classification import evaluate
from fcnet.evaluation.predictions import PredictionCollector, write_predictions
from fcnet.experiment.snapshots import Snapshots
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.speed import max_images_per_second
from fcnet.optim.state import select_prefix
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import sha256
from fcnet.runtime.hardware import processor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fcnet.evaluation.classification import Evaluation
    from fcnet.experiment.build import Experiment
    from fcnet.experiment.run_folder import Run
    from fcnet.training.records import EpochRecord

_STEPS_BETWEEN_SYNCS = 16


class Stopped(Exception):  # noqa: N818 - a wish that was granted, not an error
    """The run was asked to stop; it is saved, and nothing is lost."""


def run_experiment(
    experiment: Experiment,
    run: Run,
    *,
    save_seconds: float,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord | None]:
    """Goes back to the last checkpoint where there is one; the iterator then trains to the end.

    At the end it reads the test set, once, and writes the network and the summary.

    Args:
        experiment: at its beginning.
        run: its folder.
        save_seconds: seconds between checkpoints; 0 saves after every step.
        stop: asked between steps whether to stop.

    Returns:
        An iterator: None after each step, a record after each epoch. It raises `Stopped` after a
        last checkpoint when ``stop`` says so.

    Raises:
        UserError: the checkpoint does not belong to this data.
    """
    torch.set_num_threads(experiment.threads)
    if distributed.rank() == 0:
        run.remove_temporary_files()
    records = _restore(experiment, run)
    return _train_and_finish(experiment, run, records, save_seconds, stop)


def _train_and_finish(
    experiment: Experiment,
    run: Run,
    records: list[dict[str, Any]],
    save_seconds: float,
    stop: Callable[[], bool],
) -> Iterator[EpochRecord | None]:
    training = experiment.training
    saved, stopping = time.monotonic(), False
    take_snapshot = _snapshot_fn(experiment, run)
    take_snapshot()
    for record in training.advance():
        if record is not None:
            records.append(dataclasses.asdict(record))
            if distributed.rank() == 0:
                run.write_records(records)
            take_snapshot()
        if record is not None or _sync_due(training.step):
            stopping = distributed.any_rank(stop())
            if stopping or distributed.any_rank(time.monotonic() - saved >= save_seconds):
                _save(experiment, run)
                saved = time.monotonic()
        yield record
        if stopping:
            raise Stopped
    _save(experiment, run)
    _finish(experiment, run, records)


def _snapshot_fn(experiment: Experiment, run: Run) -> Callable[[], None]:
    """What looks into the network where that is due and not done; the first rank does it alone.

    What a run has seen since its checkpoint is taken back.
    """
    if not experiment.diagnostics:
        return lambda: None
    snapshots, written = Snapshots(experiment.training), run.snapshots()
    lines = [line for line in written if line["epoch"] <= experiment.training.epoch]
    if distributed.rank() == 0 and len(lines) < len(written):
        run.write_snapshots(lines)

    def take_snapshot() -> None:
        done = bool(lines) and lines[-1]["epoch"] == experiment.training.epoch
        if distributed.rank() == 0 and snapshots.due and not done:
            lines.append(snapshots.take())
            run.write_snapshots(lines)

    return take_snapshot


def _sync_due(step: int) -> bool:
    """Whether the ranks, who must save and stop at one step, ask each other after this one."""
    return distributed.world_size() == 1 or step % _STEPS_BETWEEN_SYNCS == 0


def _restore(experiment: Experiment, run: Run) -> list[dict[str, Any]]:
    """Goes back to the last checkpoint; returns the records up to it."""
    found = run.latest_checkpoint()
    if found is None:
        return []
    tensors, metadata = found
    if metadata["fingerprint"] != experiment.fingerprint:
        raise UserError(f"{run.path} was trained on other data than what its configuration names now")
    if metadata["config"] != sha256(run.config):
        raise UserError(f"{run.config} must be as it was when the run began, got a change")
    torch.set_num_threads(metadata["threads"])
    experiment.training.restore(tensors, metadata)
    if experiment.classifier.whitening is not None:
        experiment.classifier.whitening.load_state_dict(select_prefix(tensors, "whitening"))
    return [record for record in run.records() if record["epoch"] <= metadata["epoch"]]


def _save(experiment: Experiment, run: Run) -> None:
    tensors, metadata = experiment.training.state()
    if experiment.classifier.whitening is not None:
        tensors |= {
            f"whitening.{name}": tensor for name, tensor in experiment.classifier.whitening.state_dict().items()
        }
    metadata |= {
        "fingerprint": experiment.fingerprint,
        "config": sha256(run.config),
        "threads": torch.get_num_threads(),
    }
    if distributed.rank() == 0:
        run.save_checkpoint(experiment.training.step, tensors, metadata)
    distributed.barrier()


def _finish(experiment: Experiment, run: Run, records: list[dict[str, Any]]) -> None:
    """Reads the test set, once, and writes the network and the summary."""
    training = experiment.training
    collector = PredictionCollector()
    result = evaluate(training.model, experiment.test, on_batch=collector.update)
    predictions = collector.compute()
    best = records[training.best_epoch - 1]
    said = _training_warnings(experiment, records, result)
    if distributed.rank() == 0:
        environment = _environment(experiment)
        experiment.classifier.save(run.path / "model", {"environment": environment})
        write_predictions(run.path, predictions, experiment.classifier.classes, experiment.fingerprint)
        summary = {
            "test_accuracy": result.accuracy,
            "test_interval": result.interval,
            "test_loss": result.loss,
            "validation_accuracy": best["validation_accuracy"],
            "validation_loss": best["validation_loss"],
            "epochs": training.epoch,
            "best_epoch": training.best_epoch,
            "steps": training.step,
            "train_seconds": training.train_seconds,
            "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
            "train_images": training.batches.num_images,
            "class_images": dict(zip(experiment.classifier.classes, _class_counts(experiment), strict=True)),
            "validation_images": training.validation.num_images if training.validation else 0,
            "test_images": experiment.test.num_images,
            "roofline_images_per_second": _roofline(experiment),
            "warnings": said,
        }
        run.finish(summary | environment)
    distributed.barrier()


def _roofline(experiment: Experiment) -> float | None:
    """What the machine could have done at its best, each rank as if alone; None where it cannot be timed."""
    training, classifier = experiment.training, experiment.classifier
    ranks = distributed.world_size()
    try:
        return ranks * max_images_per_second(
            classifier.model.widths,
            max(1, training.batches.batch_size // ranks),
            pixels=math.prod(classifier.shape),
            device=experiment.test.device,
            precision=training.algorithm.precision,
        )
    except (MemoryError, RuntimeError):  # such as no room for another copy of the weights
        return None


def _training_warnings(experiment: Experiment, records: list[dict[str, Any]], test: Evaluation) -> list[str]:
    """What the figures say of the training, in words; all ranks must ask together."""
    training, classifier = experiment.training, experiment.classifier
    algorithm = training.algorithm
    lr, loss = algorithm.optimizer.param_groups[0]["initial_lr"], algorithm.loss
    said = advice.score_advice(loss.name) if isinstance(loss, ScoreLoss) else []
    if isinstance(loss, CrossEntropy) or (isinstance(loss, ScoreLoss) and loss.name == "logistic"):
        counts = _class_counts(experiment)
        said += advice.loss_advice(records, advice.class_frequency_loss(counts, loss.label_smoothing), lr)
    said += advice.validation_advice(records, lr)
    held_out = training.validation or experiment.test
    seen = evaluate(training.model, held_out) if training.validation else test
    said += advice.class_advice(seen.confusion, classifier.classes, steps=training.step)
    said += advice.cuda_graph_advice(training.graphed_steps.fallback_reason if training.graphed_steps else None)
    idle = idle_units(classifier.model, held_out)
    return said + advice.idle_unit_advice(idle, classifier.model.arguments["activation"], lr, steps=training.step)


def _class_counts(experiment: Experiment) -> list[int]:
    """How many training images there are of each class."""
    batches = experiment.training.batches
    labels = batches.labels[batches.rows.to(batches.labels.device)]
    counts: list[int] = labels.bincount(minlength=len(experiment.classifier.classes)).tolist()
    return counts


def _environment(experiment: Experiment) -> dict[str, Any]:
    """What a run must share with another for the two to be equal to the bit."""
    device = experiment.test.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "ranks": distributed.world_size(),
        "fcnet": version("fcnet"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": experiment.training.seed,
        "data": experiment.fingerprint,
    }
