"""Tables of an evaluation as lines of text that fit a terminal: metrics by class, confusion matrix and mistakes.

C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fcnet.metrics import class_metrics
from fcnet.runtime.formatting import escape_unprintable, format_percent, shorten_middle
from fcnet.runtime.terminal import shorten_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.evaluation.classification import Evaluation
    from fcnet.evaluation.metric_values import MetricValue
    from fcnet.evaluation.predictions import Mistake
    from fcnet.metrics import ClassRanking, Confusion

MAX_CLASS_ROWS = 100
"""The largest number of classes of which every one has a row in `class_table` and in `confusion_table`."""
NUM_WORST_CLASSES = 20
"""The number of rows of `class_table` with more classes: those with the lowest F1."""

_NUM_CONFUSED = 10
_MAX_NAME = 15
"""The longest class name that is shown whole in the table of mistakes."""
_CONFUSED_COLUMNS = "    images  of truth"
_CLASS_COLUMNS = len("  images  precision  recall      F1      AP")


def class_table(
    result: Evaluation,
    rankings: Sequence[ClassRanking] | None,
    averages: Sequence[MetricValue],
    classes: Sequence[str],
    columns: int | None = None,
) -> list[str]:
    """Returns the metrics of each class and their averages as lines of text.

    Args:
        result: the evaluation.
        rankings: the rankings of the classes; None without any.
        averages: from `fcnet.evaluation.metric_values.metric_values`.
        classes: the names of the classes.
        columns: the width to fit into; None for names in full.
    """
    classes = [escape_unprintable(name) for name in classes]  # before the columns are aligned
    limit = None if columns is None else max(columns - _CLASS_COLUMNS, 6)
    names = classes if limit is None else shorten_names(classes, limit)
    rows = class_metrics(result.confusion)
    shown, lines = list(range(len(names))), list[str]()
    if len(names) > MAX_CLASS_ROWS:
        shown = worst_classes(result.confusion, NUM_WORST_CLASSES)
        lines.append(f"the {len(shown)} classes with the lowest F1, of {len(names):,}")
    found = {each.name: each for each in averages}
    kinds = ("macro", "weighted")
    heads = [f"{kind} avg" for kind in kinds]
    heads = heads if limit is None else shorten_names(heads, limit)
    width = max(len("class"), *(len(names[label]) for label in shown), *map(len, heads))
    lines.append(f"{'class':{width}}  images  precision  recall      F1      AP".rstrip())
    for label in shown:
        row = rows[label]
        precision = None if rankings is None else rankings[label].average_precision
        cells = [_percent(value) for value in (row.precision, row.recall, row.f1, precision)]
        lines.append(_class_row(f"{names[label]:{width}}", row.count, cells))
    for kind, head in zip(kinds, heads, strict=True):
        cells = [_percent(found[f"{kind}_{name}"].value) for name in ("precision", "recall", "f1")]
        cells.append(_percent(found["mean_average_precision"].value) if kind == "macro" else "")
        lines.append(_class_row(f"{head:{width}}", result.count, cells))
    return lines


def worst_classes(confusion: Confusion, count: int) -> list[int]:
    """Returns the classes with the lowest F1, worst first; of equal ones, those with the most images and predictions.

    Classes without images and without predictions have no F1 and come last.

    Example:
        >>> from fcnet.metrics import Confusion
        >>> worst_classes(Confusion.from_table([[8, 2, 0, 0], [1, 9, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]]), 3)
        [2, 1, 0]
    """
    total = confusion.class_counts + confusion.predicted_counts
    f1 = np.where(total > 0, 2.0 * confusion.correct_counts / np.maximum(total, 1), np.inf)
    order: list[int] = np.lexsort((np.arange(len(f1)), -total, f1))[:count].tolist()
    return order


def _class_row(name: str, count: int, cells: Sequence[str]) -> str:
    precision, recall, f1, average_precision = cells
    return f"{name}  {count:6}  {precision:>9}  {recall:>6}  {f1:>6}  {average_precision:>6}".rstrip()


def _percent(value: float | None) -> str:
    return "–" if value is None else format_percent(value, 1)


def confusion_table(confusion: Confusion, classes: Sequence[str], columns: int | None = None) -> list[str]:
    """Returns a confusion matrix as lines of text, or the most confused pairs if it does not fit.

    Args:
        confusion: the counts.
        classes: names of the classes.
        columns: width to fit into; None for any width, but at most 100 classes.
    """
    if len(classes) > MAX_CLASS_ROWS:
        return confused_table(confusion, classes, columns)
    digits = len(str(confusion.counts.max()))
    narrowest = max(digits, len(str(len(classes))) + 1)
    for limit in range(max(6, narrowest), narrowest - 1, -1):
        heads = shorten_names(classes, limit)
        cell = max(digits, *map(len, heads))
        rest = None if columns is None else columns - len(classes) * (cell + 2)
        if rest is None or rest >= max(len("truth"), narrowest):
            break
    if rest is not None and rest < max(len("truth"), narrowest):
        return confused_table(confusion, classes, columns)
    names = list(classes) if rest is None else shorten_names(classes, rest)
    width = max(len("truth"), *map(len, names))
    lines = [f"{'truth':{width}}  prediction", " " * width + "".join(f"  {head:>{cell}}" for head in heads)]
    for name, counts in zip(names, confusion.table(), strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {count:{cell}}" for count in counts))
    return lines


def confused_table(confusion: Confusion, classes: Sequence[str], columns: int | None = None) -> list[str]:
    """Returns the most confused pairs of classes as lines of text.

    Args:
        confusion: the counts.
        classes: names of the classes.
        columns: width to fit into; None for names in full.

    Example:
        >>> from fcnet.metrics import Confusion
        >>> for line in confused_table(Confusion.from_table([[8, 2], [0, 5]]), ["cat", "elephant"]):
        ...     print(line)
        most confused classes, 1 of 1
        truth  prediction  images  of truth
        cat    elephant         2     20.0%
    """
    pairs = confusion.most_confused()
    if not pairs:
        return ["no class is confused with another"]
    shown = pairs[:_NUM_CONFUSED]
    names = classes if columns is None else shorten_names(classes, max((columns - len(_CONFUSED_COLUMNS)) // 2, 6))
    rows = [(names[pair.label], names[pair.prediction], pair.count, pair.fraction) for pair in shown]
    truth = max(len("truth"), *(len(row[0]) for row in rows))
    prediction = max(len("prediction"), *(len(row[1]) for row in rows))
    lines = [f"most confused classes, {len(shown)} of {len(pairs):,}"]
    lines.append(f"{'truth':{truth}}  {'prediction':{prediction}}  images  of truth")
    for label, predicted, count, fraction in rows:
        lines.append(f"{label:{truth}}  {predicted:{prediction}}  {count:6}  {format_percent(fraction, 1):>8}")
    return lines


def mistake_table(mistakes: Sequence[Mistake], classes: Sequence[str], count: int) -> list[str]:
    """Returns the most confident mistakes as lines of text with at most 80 columns.

    Args:
        mistakes: the mistakes to show, in the order of the rows.
        classes: the class names.
        count: the number of all mistakes.
    """
    if not mistakes:
        return ["no mistakes: every image is classified correctly"]
    first = "index" if isinstance(mistakes[0].image, int) else "path"
    rows: list[tuple[str, ...]] = [(first, "truth", "prediction", "probability")]
    for each in mistakes:
        names = (str(each.image), classes[each.label], classes[each.prediction])
        # Before the columns are aligned.
        rows.append((*map(escape_unprintable, names), format_percent(each.probability, 1)))
    image, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    truth, prediction, probability = (min(width, _MAX_NAME) for width in others)
    image = min(image, 80 - truth - prediction - probability - 3 * len("  "))
    lines = [f"most confident mistakes, {len(mistakes)} of {count:,}"]
    for *cells, figure in rows:
        widths = (image, truth, prediction)
        cells = [f"{shorten_middle(cell, width):{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*cells, f"{figure:>{probability}}"]))
    return lines
