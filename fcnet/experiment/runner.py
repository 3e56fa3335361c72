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
from fcnet.evaluation.predictions import Collector, write_predictions
from fcnet.experiment.snapshots import Checkup
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.speed import fastest_images_per_second
from fcnet.optim.state import within
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

_STEPS_BETWEEN_AGREEMENTS = 16


class Stopped(Exception):  # noqa: N818 - a wish that was granted, not an error
    """The run was asked to stop; it is saved, and nothing is lost."""


def carry_out(
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
    return _to_the_end(experiment, run, records, save_seconds, stop)


def _to_the_end(
    experiment: Experiment,
    run: Run,
    records: list[dict[str, Any]],
    save_seconds: float,
    stop: Callable[[], bool],
) -> Iterator[EpochRecord | None]:
    training = experiment.training
    saved, stopping = time.monotonic(), False
    look = _looks(experiment, run)
    look()
    for record in training.advance():
        if record is not None:
            records.append(dataclasses.asdict(record))
            if distributed.rank() == 0:
                run.write_records(records)
            look()
        if record is not None or _agreement_due(training.step):
            stopping = distributed.agreed(stop())
            if stopping or distributed.agreed(time.monotonic() - saved >= save_seconds):
                _save(experiment, run)
                saved = time.monotonic()
        yield record
        if stopping:
            raise Stopped
    _save(experiment, run)
    _finish(experiment, run, records)


def _looks(experiment: Experiment, run: Run) -> Callable[[], None]:
    """What looks into the network where that is due and not done; the first rank does it alone.

    What a run has seen since its checkpoint is taken back.
    """
    if not experiment.diagnostics:
        return lambda: None
    checkup, written = Checkup(experiment.training), run.looks()
    lines = [line for line in written if line["epoch"] <= experiment.training.epoch]
    if distributed.rank() == 0 and len(lines) < len(written):
        run.write_looks(lines)

    def look() -> None:
        done = bool(lines) and lines[-1]["epoch"] == experiment.training.epoch
        if distributed.rank() == 0 and checkup.due and not done:
            lines.append(checkup.look())
            run.write_looks(lines)

    return look


def _agreement_due(step: int) -> bool:
    """Whether the ranks, who must save and stop at one step, ask each other after this one."""
    return distributed.num_ranks() == 1 or step % _STEPS_BETWEEN_AGREEMENTS == 0


def _restore(experiment: Experiment, run: Run) -> list[dict[str, Any]]:
    """Goes back to the last checkpoint; returns the records up to it."""
    found = run.latest()
    if found is None:
        return []
    tensors, facts = found
    if facts["fingerprint"] != experiment.fingerprint:
        raise UserError(f"{run.path} was trained on other data than what its configuration names now")
    if facts["config"] != sha256(run.config):
        raise UserError(f"{run.config} must be as it was when the run began, got a change")
    torch.set_num_threads(facts["threads"])
    experiment.training.restore(tensors, facts)
    if experiment.network.whitening is not None:
        experiment.network.whitening.load_state_dict(within(tensors, "whitening"))
    return [record for record in run.records() if record["epoch"] <= facts["epoch"]]


def _save(experiment: Experiment, run: Run) -> None:
    tensors, facts = experiment.training.state()
    if experiment.network.whitening is not None:
        tensors |= {f"whitening.{name}": tensor for name, tensor in experiment.network.whitening.state_dict().items()}
    facts |= {
        "fingerprint": experiment.fingerprint,
        "config": sha256(run.config),
        "threads": torch.get_num_threads(),
    }
    if distributed.rank() == 0:
        run.save(experiment.training.step, tensors, facts)
    distributed.barrier()


def _finish(experiment: Experiment, run: Run, records: list[dict[str, Any]]) -> None:
    """Reads the test set, once, and writes the network and the summary."""
    training = experiment.training
    collector = Collector()
    result = evaluate(training.model, experiment.test, note=collector.note)
    predictions = collector.collected()
    kept = records[training.kept_epoch - 1]
    said = _remarks(experiment, records, result)
    if distributed.rank() == 0:
        made_with = _made_with(experiment)
        experiment.network.save(run.path / "model", {"made_with": made_with})
        write_predictions(run.path, predictions, experiment.network.classes, experiment.fingerprint)
        summary = {
            "test_accuracy": result.accuracy,
            "test_interval": result.interval,
            "test_loss": result.loss,
            "validation_accuracy": kept["validation_accuracy"],
            "validation_loss": kept["validation_loss"],
            "epochs": training.epoch,
            "kept_epoch": training.kept_epoch,
            "steps": training.step,
            "train_seconds": training.train_seconds,
            "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
            "train_images": training.batches.num_images,
            "class_images": dict(zip(experiment.network.classes, _class_counts(experiment), strict=True)),
            "validation_images": training.validation.num_images if training.validation else 0,
            "test_images": experiment.test.num_images,
            "limit_images_per_second": _limit(experiment),
            "remarks": said,
        }
        run.finish(summary | made_with)
    distributed.barrier()


def _limit(experiment: Experiment) -> float | None:
    """What the machine could have done at its best, each rank as if alone; None where it cannot be timed."""
    training, network = experiment.training, experiment.network
    ranks = distributed.num_ranks()
    try:
        return ranks * fastest_images_per_second(
            network.model.widths,
            max(1, training.batches.batch_size // ranks),
            pixels=math.prod(network.shape),
            device=experiment.test.device,
            precision=training.algorithm.precision,
        )
    except (MemoryError, RuntimeError):  # such as no room for another copy of the weights
        return None


def _remarks(experiment: Experiment, records: list[dict[str, Any]], test: Evaluation) -> list[str]:
    """What the figures say of the training, in words; all ranks must ask together."""
    training, network = experiment.training, experiment.network
    algorithm = training.algorithm
    lr, loss = algorithm.optimizer.param_groups[0]["initial_lr"], algorithm.loss
    said = advice.on_scores(loss.name) if isinstance(loss, ScoreLoss) else []
    if isinstance(loss, CrossEntropy) or (isinstance(loss, ScoreLoss) and loss.name == "logistic"):
        counts = _class_counts(experiment)
        said += advice.on_losses(records, advice.guessing_loss(counts, loss.label_smoothing), lr)
    said += advice.on_validation(records, lr)
    held_out = training.validation or experiment.test
    seen = evaluate(training.model, held_out) if training.validation else test
    said += advice.on_classes(seen.confusion, network.classes, steps=training.step)
    said += advice.on_recording(training.runs.why_not if training.runs else None)
    idle = idle_units(network.model, held_out)
    return said + advice.on_units(idle, network.model.arguments["activation"], lr, steps=training.step)


def _class_counts(experiment: Experiment) -> list[int]:
    """How many training images there are of each class."""
    batches = experiment.training.batches
    labels = batches.labels[batches.rows.to(batches.labels.device)]
    counts: list[int] = labels.bincount(minlength=len(experiment.network.classes)).tolist()
    return counts


def _made_with(experiment: Experiment) -> dict[str, Any]:
    """What a run must share with another for the two to be equal to the bit."""
    device = experiment.test.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "ranks": distributed.num_ranks(),
        "fcnet": version("fcnet"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": experiment.training.seed,
        "data": experiment.fingerprint,
    }
