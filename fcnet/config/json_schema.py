"""What fcnet reads back from the JSON files that it wrote, checked before it is used.

A checksum says that a file is whole, not that it is true: a stranger's file has one too.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fcnet.config.schema import ListAsTuple
from fcnet.config.selection import DEFAULT_SELECTION
from fcnet.config.toml import describe_first_error
from fcnet.runtime.errors import UserError

_Entries = TypeVar("_Entries", bound=BaseModel)
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0.0)]


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class ModelEntries(_Object):
    """The entries of ``model.json`` that belong to predictions; further entries are allowed."""

    classes: list[str]
    checksum: str


class PredictionsMetadata(_Object):
    """The entries of ``predictions.json``; further entries are allowed."""

    classes: list[str]
    model_checksum: str


class OptimizerMetadata(_Object):
    """The metadata of `fcnet.optim.state.split_state`."""

    model_config = ConfigDict(allow_inf_nan=True)

    scalars: dict[str, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class TrainingMetadata(_Object):
    """The metadata of `fcnet.training.state.TrainingState.state`; further entries are allowed."""

    epoch: _Count
    step: _Count
    images: _Count
    seconds: _Seconds
    previous_seconds: _Seconds
    optimizer: OptimizerMetadata
    best: Annotated[tuple[int, float | None], ListAsTuple] | None
    select: str = DEFAULT_SELECTION


def parse_object(schema: type[_Entries], content: dict[str, Any], place: object) -> _Entries:
    """Returns the checked entries of a JSON object.

    Args:
        schema: the entries and their types.
        content: the object.
        place: its file, or another place for the error.

    Raises:
        UserError: an entry is missing or has another type; the message names the first.

    Example:
        >>> parse_object(PredictionsMetadata, {"classes": ["cat"], "model_checksum": "0"}, "x.json").classes
        ['cat']
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{place}: {describe_first_error(error)}") from None
