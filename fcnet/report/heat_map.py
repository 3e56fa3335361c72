"""A confusion matrix of many classes as a drawing, where a table would be too wide."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from fcnet.report.charts import Chart, draw_svg
from fcnet.runtime.formatting import format_count, format_percent, shorten_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.metrics import Confusion

_SIDE = 440
_TOP = 8
_AXIS_TITLE = 24
_CHARACTER = 6.6
"""Width of a character of a name, at most."""
_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Fractions of a true class from which a cell is one shade darker: most confusions are a few percent of a class."""
_MAX_NAMES = 20
_MAX_NAME = 13


def confusion_heat_map(confusion: Confusion, classes: Sequence[str]) -> Chart:
    """Draws the fraction of each true class that is predicted as each class, the wrong ones in another colour.

    Args:
        confusion: the counts of C classes, up to a few hundred.
        classes: their names.

    Example:
        >>> from fcnet.metrics import Confusion
        >>> chart = confusion_heat_map(Confusion.from_table([[8, 2], [0, 10]]), ["cat", "dog"])
        >>> chart.names
        ['correct', 'wrong']
    """
    cell, margin = _SIDE / confusion.num_classes, _name_width(classes) + _AXIS_TITLE
    totals = np.maximum(confusion.class_counts, 1)
    paths: dict[tuple[bool, int], list[str]] = {}
    for truth, predicted, count in zip(
        confusion.labels.tolist(), confusion.predictions.tolist(), confusion.counts.tolist(), strict=True
    ):
        level = sum(count / totals[truth] >= least for least in _LEVELS)
        paths.setdefault((truth == predicted, level), []).append(f"M{predicted} {truth}h1v1h-1z")
    cells = [
        Markup('<path class="cell {}" style="fill-opacity:{}" d="{}"/>').format(
            "s0" if is_correct else "s1", round((level + 1) / (len(_LEVELS) + 1), 2), "".join(squares)
        )
        for (is_correct, level), squares in sorted(paths.items())
    ]
    transform = f"translate({margin} {_TOP}) scale({cell:.6g})"
    parts = [
        Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(margin, _TOP, _SIDE, _SIDE),
        Markup('<g transform="{}">{}</g>').format(transform, Markup("").join(cells)),
        *_names(classes, cell, margin),
    ]
    labels = _column_labels(confusion, classes)
    at = [round(margin + (column + 0.5) * cell, 1) for column in range(confusion.num_classes)]
    description = (
        f"Confusion matrix of {confusion.num_classes:,} classes: rows are true classes, columns are predicted classes"
    )
    svg = draw_svg(
        parts, description, at, labels, size=(margin + _SIDE + _TOP, _TOP + _SIDE + margin), cursor=(_TOP, _TOP + _SIDE)
    )
    return Chart("", svg, ["correct", "wrong"])


def _name_width(classes: Sequence[str]) -> float:
    return 8 + _CHARACTER * min(max(map(len, classes)), _MAX_NAME)


def _names(classes: Sequence[str], cell: float, margin: float) -> list[Markup]:
    """Writes the names of as many classes as there is room for, at the rows and below the columns."""
    every = math.ceil(len(classes) / _MAX_NAMES)
    parts = [
        Markup('<text x="{}" y="{}" text-anchor="middle">predicted class</text>').format(
            margin + _SIDE / 2, _TOP + _SIDE + margin - 6
        ),
        Markup('<text transform="translate(12 {}) rotate(-90)" text-anchor="middle">true class</text>').format(
            _TOP + _SIDE / 2
        ),
    ]
    for number in range(0, len(classes), every):
        name, place = shorten_middle(classes[number], _MAX_NAME), (number + 0.5) * cell
        row, column = round(_TOP + place + 4, 1), round(margin + place + 4, 1)
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(margin - 6, row, name))
        parts.append(
            Markup('<text transform="translate({} {}) rotate(-90)" text-anchor="end">{}</text>').format(
                column, _TOP + _SIDE + 6, name
            )
        )
    return parts


def _column_labels(confusion: Confusion, classes: Sequence[str]) -> list[str]:
    """Says of each predicted class how many of its predictions are correct, and which class is taken for it most."""
    most_wrong: dict[int, tuple[int, str]] = {}
    for pair in confusion.most_confused():  # most frequent first
        most_wrong.setdefault(pair.prediction, (pair.count, classes[pair.label]))
    labels = []
    for name, total, correct, number in zip(
        classes,
        confusion.predicted_counts.tolist(),
        confusion.correct_counts.tolist(),
        range(len(classes)),
        strict=True,
    ):
        text = f"predicted {name}: {format_count(total, 'image')}"
        if total:
            text += f", {format_percent(correct / total, 1)} of them correct"
        if number in most_wrong:
            text += ", most often wrong for {1} ({0:,})".format(*most_wrong[number])
        labels.append(text)
    return labels
