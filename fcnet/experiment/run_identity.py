"""What a run belongs to: the content of its data, its configuration, and the versions that train it.

Every checkpoint holds it. A run resumes only with the same content and configuration. Where the data lies, when it was
written and what decoded it does not matter, as long as the decoded images and their labels are the same.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from fcnet.config.schema import Config
from fcnet.config.toml import flatten_config
from fcnet.config.values import shorten_value
from fcnet.experiment.extension import schedule_allows
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fcnet.experiment.build import Experiment


_WITHOUT_EFFECT = {"data.path", "train.save_seconds", "train.threads"}
"""Settings that may change: a checkpoint knows the content of the data and the number of threads itself."""


def run_identity(experiment: Experiment) -> dict[str, Any]:
    """Returns the identity of an experiment, in JSON types; see `fcnet.experiment.run_schema.RunIdentity`."""
    store = experiment.store
    splits = [store.train, store.test, *([store.validation] if len(store.validation.labels) else [])]
    return {
        "data": {
            "fingerprint": store.fingerprint,
            "classes": list(store.classes),
            "shape": list(store.shape),
            "images": [len(split.labels) for split in splits],
            "source": store.source,
        },
        "config": settings(experiment.config),
        "fcnet": version("fcnet"),
        "torch": str(torch.__version__),
        "ranks": distributed.world_size(),
    }


def settings(config: Config) -> dict[str, Any]:
    """Returns the values of a configuration that decide the result of a run, by their dotted keys."""
    values = flatten_config(config.model_dump(mode="json"))
    return {key: value for key, value in values if key not in _WITHOUT_EFFECT}


def check_identity(saved: Mapping[str, Any], experiment: Experiment, folder: Path) -> None:
    """Checks that an experiment may continue a run.

    Args:
        saved: the identity in the checkpoint.
        experiment: the experiment, on the data of now. It may have more epochs, if the schedule allows that.
        folder: the run folder.

    Raises:
        UserError: the data or the configuration differs; the message says in what.
    """
    now, settings_then = run_identity(experiment), saved["config"]
    if schedule_allows(experiment.config) and _has_fewer_epochs(settings_then, experiment.config):
        settings_then = settings_then | {"train.epochs": experiment.config.train.epochs}
    check_settings(settings_then, experiment.config, folder / "config.toml")
    if difference := _data_difference(saved["data"], now["data"]):
        path = experiment.config.data.path
        place = f" (data.path: {path})" if path else ""
        hint = "; --set data.path=PATH names another place" if path else ""
        raise UserError(f"{folder} was trained on other data than this{place}: {difference}{hint}")


def _has_fewer_epochs(saved: Mapping[str, Any], config: Config) -> bool:
    epochs = saved.get("train.epochs")
    return isinstance(epochs, int) and epochs < config.train.epochs


def check_settings(saved: Mapping[str, Any], config: Config, file: Path) -> None:
    """Checks that a configuration is the one that a run began with.

    Args:
        saved: the settings that the run began with. One that is absent did not exist then, and counts as its default.
        config: the configuration.
        file: its file, for the error.

    Raises:
        UserError: it is not; the message has one line for each key.
    """
    now = settings(config)
    # A run that began before a setting existed did what the default of the setting does.
    then = settings(Config()) | dict(saved)
    errors = [
        f"{key} ({file}) must be {shorten_value(then.get(key))} as when the run began, "
        f"got {shorten_value(now.get(key))}"
        for key in {**saved, **now}
        if then.get(key) != now.get(key)
    ]
    if errors:
        raise UserError(*errors)


def identity_notes(saved: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields a line for each difference to the saved identity that may change the rounding of a resumed run."""
    ranks, now = saved["ranks"], distributed.world_size()
    if ranks != now:
        yield (
            f"{folder} was saved by {ranks} process{'' if ranks == 1 else 'es'} and continues with {now}; "
            "sums over processes round differently, so the result is not that of an uninterrupted run"
        )
    for name, installed in (("fcnet", version("fcnet")), ("torch", str(torch.__version__))):
        if saved[name] != installed:
            yield (
                f"{folder} was saved by {name} {saved[name]} and continues with {name} {installed}; "
                "the result may not be that of one version to the last bit"
            )


def _data_difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Says in what two descriptions of data differ; empty if the content is the same."""
    if saved["fingerprint"] == now["fingerprint"]:
        return ""
    if saved["classes"] != now["classes"]:
        gone = [name for name in saved["classes"] if name not in now["classes"]]
        new = [name for name in now["classes"] if name not in saved["classes"]]
        parts = [f"{word} {', '.join(names)}" for word, names in (("without", gone), ("with", new)) if names]
        return f"its classes are {' and '.join(parts) or 'in another order'}"
    is_features = len(now["shape"]) == 1
    if saved["shape"] != now["shape"]:
        before, after = ("×".join(map(str, each["shape"])) for each in (saved, now))
        return f"{'features' if is_features else 'images'} had the shape {before}, and have {after} now"
    if saved["images"] != now["images"]:
        before, after = (_describe_counts(*each["images"]) for each in (saved, now))
        return f"it had {before}, and has {after} now"
    decoders = [
        f"{name} {saved['source'].get(name)} decoded the images then, {name} {now['source'].get(name)} now"
        for name in ("pillow", "scikit-learn", "torch")
        if saved["source"].get(name) != now["source"].get(name)
    ]
    same, other = ("examples", "features") if is_features else ("images", "pixels")
    return "; ".join([f"it has as many {same}, but other {other} or labels", *decoders])


def _describe_counts(train: int, test: int, validation: int = 0) -> str:
    if validation:
        return f"{train:,} training, {validation:,} validation and {test:,} test images"
    return f"{train:,} training and {test:,} test images"
