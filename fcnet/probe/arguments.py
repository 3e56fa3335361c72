"""The arguments of ``python -m fcnet.probe``, and the settings that decide its result."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fcnet.arguments import Parser, run_folder_of
from fcnet.config.schema import ListAsTuple
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    import argparse

DEFAULT_CS = "1e-6..1e5:45"
DEFAULT_VALIDATION = 0.1
SAVE_SECONDS = 30.0
_MAX_CS = 10_000


class Settings(BaseModel):
    """What decides the result of a probe, besides its features.

    Attributes:
        Cs: the inverse strengths of the penalty to try, ascending.
        validation: the share of the training examples to choose by; None with folds or a validation split.
        folds: the number of folds to choose by; None for none.
        l2_normalize: whether each vector is scaled to unit norm.
        standardize: whether the penalty is on the weights of standardised features.
        class_weight: ``balanced`` for the same weight of all classes together.
        shots: the numbers of examples of each class in the few-shot fits; none without.
        repeats: the number of draws for each.
        seed: the seed of all draws.
        tol: the tolerance of a minimum; see `fcnet.logistic_path`.
        max_iter: the most steps for each C.
        feature_column: the column of vectors in Parquet files.
        label_column: the column of labels in Parquet files.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    Cs: Annotated[tuple[float, ...], ListAsTuple]
    validation: float | None = None
    folds: int | None = None
    l2_normalize: bool = False
    standardize: bool = True
    class_weight: Literal["balanced"] | None = None
    shots: Annotated[tuple[int, ...], ListAsTuple] = ()
    repeats: int = 5
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    tol: float = 1e-6
    max_iter: int = 1000
    feature_column: str = "embedding"
    label_column: str = "label"


@dataclass(frozen=True)
class Flags:
    """The arguments of the command.

    Attributes:
        features: the features; None if they are not given.
        given: the settings that are given, by the name of the field of `Settings`.
        out: the run folder, or None.
        out_flag: the argument that names it.
        resume: whether to continue a run.
        device: the name of the device.
        save_seconds: the seconds between saves.
    """

    features: Path | None
    given: dict[str, Any]
    out: Path | None
    out_flag: str
    resume: bool
    device: str
    save_seconds: float


def parse_flags(arguments: list[str]) -> Flags:
    """Parses and checks the arguments.

    Raises:
        UserError: they have a mistake.
    """
    parser = Parser(
        "probe",
        "Fit logistic regressions to features, choose the penalty on held-out examples, and evaluate the choice on the "
        "test split.",
        ["features", "features.npz --folds 5 --Cs 1e-3..1e3:13"],
    )
    parser.add_argument(
        "features", nargs="?", type=Path, metavar="FEATURES", help=".npz, .safetensors, folder of .npy or Parquet files"
    )
    parser.add_argument(
        "--Cs",
        metavar="CS",
        help=f"inverse strengths of the penalty: LOW..HIGH:N, or numbers and commas (default: {DEFAULT_CS})",
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help=f"of the training examples to choose by, without a validation split (default: {DEFAULT_VALIDATION})",
    )
    held_out.add_argument("--folds", type=int, metavar="K", help="choose by K-fold cross-validation instead")
    parser.add_argument(
        "--l2-normalize", action="store_true", default=None, help="scale each vector to unit norm, in the model as well"
    )
    parser.add_argument(
        "--no-standardize",
        action="store_const",
        const=False,
        default=None,
        dest="standardize",
        help="penalise the weights of the features as they are",
    )
    parser.add_argument("--class-weight", choices=["balanced"], help="the same weight of all classes together")
    parser.add_argument("--shots", metavar="LIST", help="also fit to few examples of each class: 1,2,4,8,16")
    parser.add_argument("--repeats", type=int, metavar="N", help="draws for each number of shots (default: 5)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of all draws (default: 0)")
    parser.add_argument("--tol", type=float, metavar="TOL", help="tolerance of a minimum (default: 1e-6)")
    parser.add_argument("--max-iter", type=int, metavar="N", help="most steps for each C (default: 1000)")
    parser.add_argument("--feature-column", metavar="NAME", help="of Parquet files (default: embedding)")
    parser.add_argument("--label-column", metavar="NAME", help="of Parquet files (default: label)")
    parser.add_out("run folder (default: runs/probe)")
    parser.add_device()
    parser.add_resume("continue an interrupted run (default: --out, or the newest of runs/probe)")
    parser.add_argument(
        "--save-seconds", type=float, default=SAVE_SECONDS, metavar="S", help="between saves (default: 30)"
    )
    flags = parser.parse(arguments)
    _check(flags)
    given = {name: getattr(flags, name) for name in Settings.model_fields if getattr(flags, name) is not None}
    if "Cs" in given:
        given["Cs"] = parse_penalties(given["Cs"])
    if "shots" in given:
        given["shots"] = parse_shots(given["shots"])
    out, out_flag = run_folder_of(flags)
    if flags.features is None and flags.resume is None:
        raise UserError(f"FEATURES is missing: {parser.prog} features")
    return Flags(flags.features, given, out, out_flag, flags.resume is not None, flags.device, flags.save_seconds)


def parse_penalties(text: str) -> tuple[float, ...]:
    """Returns the values of ``--Cs``, ascending.

    Args:
        text: ``LOW..HIGH:N`` for N values from LOW to HIGH, evenly spaced in the logarithm, with four digits; or
            numbers with commas between them.

    Raises:
        UserError: it is something else.

    Example:
        >>> parse_penalties("0.01..100:5"), parse_penalties("1,0.1")
        ((0.01, 0.1, 1.0, 10.0, 100.0), (0.1, 1.0))
    """
    low, dots, rest = text.partition("..")
    if not dots:
        values = sorted(_parse_number(word, text) for word in text.split(","))
        if repeated := [a for a, b in itertools.pairwise(values) if a == b]:
            raise UserError(f"--Cs must be different numbers, got {repeated[0]:g} twice")
        return tuple(values)
    high, _, count = rest.partition(":")
    first, last = _parse_number(low, text), _parse_number(high, text)
    if not (count.isdecimal() and 2 <= int(count) <= _MAX_CS):
        raise UserError(f"--Cs must be LOW..HIGH:N with N from 2 to {_MAX_CS:,}, got {text}")
    if first >= last:
        raise UserError(f"--Cs must be LOW..HIGH:N with LOW less than HIGH, got {text}")
    steps = int(count) - 1
    start, width = math.log10(first), math.log10(last) - math.log10(first)
    inner = (float(f"{10.0 ** (start + width * step / steps):.4g}") for step in range(1, steps))
    return (first, *inner, last)


def parse_shots(text: str) -> tuple[int, ...]:
    """Returns the values of ``--shots``, ascending.

    Raises:
        UserError: they are no different positive numbers with commas between them.

    Example:
        >>> parse_shots("1,2,16")
        (1, 2, 16)
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"--shots must be numbers of at least 1 with commas between them, got {text}")
    values = sorted(map(int, words))
    if len(set(values)) < len(values):
        raise UserError(f"--shots must be different numbers, got {text}")
    return tuple(values)


def check_agreement(settings: Settings, given: dict[str, Any]) -> None:
    """Checks that the given settings are those with which a run began.

    Raises:
        UserError: some are not; the message has one line for each.
    """
    errors = [
        f"{flag_name(name)} must be {_format(getattr(settings, name))} as when the run began, got {_format(value)}"
        for name, value in given.items()
        if value != getattr(settings, name)
    ]
    if errors:
        raise UserError(*errors)


def flag_name(field: str) -> str:
    """Returns the flag of a setting.

    Example:
        >>> flag_name("max_iter"), flag_name("standardize")
        ('--max-iter', '--no-standardize')
    """
    return "--no-standardize" if field == "standardize" else f"--{field.replace('_', '-')}"


def _format(value: object) -> str:
    if isinstance(value, tuple):
        shown = ",".join(f"{each:g}" for each in value[:3])
        return f"{shown},… ({len(value)} values)" if len(value) > 3 else shown or "left out"
    if isinstance(value, bool):
        return "given" if value else "left out"
    return "left out" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _parse_number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise UserError(f"--Cs must be LOW..HIGH:N or numbers with commas between them, got {text}") from None
    if not (0.0 < value < math.inf):
        raise UserError(f"--Cs must be finite and greater than 0, got {word}")
    return value


def _check(flags: argparse.Namespace) -> None:
    """Checks each number by itself."""
    for flag, value, least in (
        ("folds", flags.folds, 2),
        ("repeats", flags.repeats, 1),
        ("max-iter", flags.max_iter, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"--{flag} must be at least {least}, got {value}")
    for flag, value, low, high, rule in (
        ("validation", flags.validation, 0.0, 1.0, "greater than 0 and less than 1"),
        ("tol", flags.tol, 0.0, math.inf, "finite and greater than 0"),
        ("save-seconds", flags.save_seconds, -math.ulp(0.0), math.inf, "finite and at least 0"),
        ("seed", flags.seed, -1, 2**63, "from 0 to 2**63 - 1"),
    ):
        if value is not None and not low < value < high:
            raise UserError(f"--{flag} must be {rule}, got {value}")
    if flags.repeats is not None and flags.shots is None and flags.resume is None:
        raise UserError("--repeats needs --shots, such as --shots 1,2,4,8,16")
