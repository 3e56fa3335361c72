"""The fits of a probe, each of which is done once: an interrupted run resumes them from its folder.

Of several ranks, each holds a part of the examples of every fit, and the first one has the folder.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import torch

from fcnet.experiment.runner import Stopped
from fcnet.linear_model import LogisticPath, SearchStopped, fit_path
from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from fcnet.data.features.joined_rows import JoinedRows
    from fcnet.linear_model import Progress
    from fcnet.probe.arguments import Settings
    from fcnet.probe.run import ProbeRun

_MAX_SAVING = 0.05
"""The largest share of the time in which states are saved."""


class Work:
    """Does the parts of a probe that are not done yet.

    Args:
        run: the run folder.
        settings: the settings.
        device: the device to compute on.
        save_seconds: the least seconds between two saved states of a search; 0 saves as often as is cheap.
        stop: called between parts and after each pass over the features; if it returns True on any rank, the first one
            saves the state, and all raise `Stopped`.
        show: called after each pass with the fraction of the fit that is done, about, and a phrase.
        note: called with one line for each damaged file.

    Attributes:
        device: the device.
        seconds: the seconds of all fits, those of interrupted commands included.
    """

    def __init__(
        self,
        run: ProbeRun,
        settings: Settings,
        device: torch.device,
        *,
        save_seconds: float,
        stop: Callable[[], bool] = lambda: False,
        show: Callable[[float, str], None] = lambda fraction, phrase: None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.device, self.seconds = device, 0.0
        self._run, self._settings, self._save_seconds = run, settings, save_seconds
        self._stop, self._show, self._note = stop, show, note

    def stage(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Returns the result of a part of the work, computed unless an earlier command has done so; collective.

        Args:
            name: the name of the part, of the file's name.
            compute: computes the result, with at most one call of `fit`.
        """
        if distributed.any_rank(self._stop()):
            raise Stopped
        found = self._run.result(name, self._note) if distributed.rank() == 0 else None
        if distributed.any_rank(found is not None):
            result, seconds = found or ({}, 0.0)
            self.seconds += seconds
            return _share(result)
        before = self.seconds
        result = compute()
        if distributed.rank() == 0:
            self._run.write_result(name, result, self.seconds - before)
        return result

    def fit(
        self,
        stage: str,
        x: Tensor | JoinedRows,
        y: Tensor,
        Cs: Sequence[float],  # noqa: N803 - scikit-learn's name
        *,
        rows: Tensor | None = None,
        start: LogisticPath | None = None,
    ) -> LogisticPath:
        """Minimises the objectives, from the state that an interrupted command has saved; collective.

        Args:
            stage: the part of the work to which the fit belongs.
            x: (N, D), the features.
            y: int64 (N,), class indices.
            Cs: the penalties.
            rows: int64, ascending, the examples to fit; None for all.
            start: where to start; None for 0.
        """
        saved = self._run.search_state(stage) if distributed.rank() == 0 else None
        earlier = 0.0 if saved is None else saved[1]
        began, settings = time.monotonic(), self._settings
        watch = _Watch(settings.tol)
        due = [began + self._save_seconds]

        def on_pass(progress: Progress) -> None:
            self._show(*watch.describe(progress))
            now = time.monotonic()
            if progress.stopping or now >= due[0]:
                self._run.save_search(stage, progress.state(), earlier + now - began)
                after = time.monotonic()
                due[0] = after + max(self._save_seconds, (after - now) / _MAX_SAVING)

        if distributed.world_size() > 1:
            rows = torch.arange(len(x)) if rows is None else rows
            rows = rows[distributed.rank_slice(len(rows))]
        try:
            path = fit_path(
                x,
                y,
                Cs,
                rows=rows,
                start=start,
                on_pass=on_pass,
                stop=self._stop,
                state=None if saved is None else saved[0],
                class_weight=settings.class_weight,
                standardize=settings.standardize,
                tol=settings.tol,
                max_iter=settings.max_iter,
                device=self.device,
            )
        except SearchStopped:
            raise Stopped from None
        self.seconds += earlier + time.monotonic() - began
        return path


class _Watch:
    """Tells about how much of a fit is done, by the logarithms of the gradients."""

    def __init__(self, tol: float) -> None:
        self._tol = tol
        self._first: Tensor | None = None

    def describe(self, progress: Progress) -> tuple[float, str]:
        gradient = progress.gradient.cpu().clamp_min(self._tol)
        first = gradient if self._first is None else self._first
        self._first = torch.where(first.isfinite(), first, gradient)
        whole = (self._first / self._tol).log().clamp_min(1e-9)
        done = ((self._first / gradient).log() / whole).nan_to_num(nan=0.0).clamp(0.0, 0.99)
        ended = progress.ended.cpu()
        fraction = float(torch.where(ended, 1.0, done).mean())
        return fraction, f"{int(ended.sum())} of {len(ended)} penalties done" * (len(ended) > 1)


def _share(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the first rank's tensors on every rank."""
    layout = distributed.all_gather({name: (part.shape, part.dtype) for name, part in tensors.items()})[0]
    return {
        name: distributed.broadcast_tensor(tensors.get(name, torch.empty(shape, dtype=dtype)))
        for name, (shape, dtype) in layout.items()
    }


def path_to_tensors(path: LogisticPath) -> dict[str, Tensor]:
    """Returns a path whose classes are indices as tensors."""
    parts = {field.name: getattr(path, field.name) for field in dataclasses.fields(path)}
    return parts | {"classes": torch.from_numpy(path.classes)}


def path_from_tensors(tensors: dict[str, Tensor]) -> LogisticPath:
    """Returns the path that `path_to_tensors` took apart; further tensors are left out."""
    parts: dict[str, Any] = {field.name: tensors[field.name] for field in dataclasses.fields(LogisticPath)}
    return LogisticPath(**parts | {"classes": parts["classes"].numpy()})


def pick(path: LogisticPath, k: int) -> LogisticPath:
    """Returns the path of one of the penalties."""
    fields = [field.name for field in dataclasses.fields(path) if field.name != "classes"]
    return dataclasses.replace(path, **{name: getattr(path, name)[k : k + 1] for name in fields})
