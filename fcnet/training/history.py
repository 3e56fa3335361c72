"""The records of a finished training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from fcnet.runtime.formatting import format_count, format_percent
from fcnet.training.records import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Iterable


class History(Sequence[EpochRecord]):
    """The records of a training, one for each epoch.

    Args:
        records: the records, in the order of the epochs.

    Example:
        >>> from fcnet.training import EpochRecord, History
        >>> history = History([EpochRecord(1, 8, 0.1, 0.5, 0.75, None, None, 0.2, 5000.0)])
        >>> history
        History(1 epoch, train_loss=0.5000, train_accuracy=75.0%)
        >>> history[-1].train_loss, history.to_dict()["train_accuracy"]
        (0.5, [0.75])
    """

    __module__ = "fcnet"

    def __init__(self, records: Iterable[EpochRecord]) -> None:
        self._records = tuple(records)

    @overload
    def __getitem__(self, index: int) -> EpochRecord: ...

    @overload
    def __getitem__(self, index: slice) -> History: ...

    def __getitem__(self, index: int | slice) -> EpochRecord | History:
        """Returns the record of one epoch, counted from 0, or a history of some of them."""
        return History(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        """Returns the number of finished epochs."""
        return len(self._records)

    def to_dict(self) -> dict[str, list[Any]]:
        """Returns the figures as columns, for example for ``pandas.DataFrame(history.to_dict())``.

        ``validation_score`` is among them if ``select`` of the algorithm names such a figure.
        """
        names = [field.name for field in dataclasses.fields(EpochRecord)]
        if all(record.validation_score is None for record in self):
            names.remove("validation_score")
        return {name: [getattr(record, name) for record in self] for name in names}

    def __repr__(self) -> str:
        """Returns the number of epochs and the last figures."""
        if not self:
            return "History(0 epochs)"
        return f"History({format_count(len(self), 'epoch')}, {format_figures(self[-1])})"


def format_figures(record: EpochRecord) -> str:
    """Returns the losses and accuracies of an epoch as text."""
    figures = f"train_loss={record.train_loss:.4f}, train_accuracy={format_percent(record.train_accuracy, 1)}"
    if record.validation_accuracy is None:
        return figures
    accuracy = format_percent(record.validation_accuracy, 1)
    score = "" if record.validation_score is None else f", validation_score={record.validation_score:.4f}"
    return f"{figures}, validation_loss={record.validation_loss:.4f}, validation_accuracy={accuracy}{score}"
