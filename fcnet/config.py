"""One typed tree for an experiment: what a configuration file may say, with one default a field."""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fcnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


_List = BeforeValidator(_as_tuple)
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Section(BaseModel):
    """What all parts of a configuration share: exact types, no unknown key, no change afterwards."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Augment(Section):
    """Changes made to training images; nothing unless asked for."""

    flip: bool = False
    """Mirror each image left to right with probability ½."""
    shift: int = Field(default=0, ge=0)
    """The most pixels an image is moved along each axis; black moves in."""


class Data(Section):
    """Which images."""

    source: Literal["digits", "cifar10", "images", "arrays", "synthetic"] = "digits"
    """Where images come from."""
    path: str = ""
    """For cifar10 the folder it is kept in; for images a folder or a tar archive of one; for arrays a .npz file."""
    classes: Annotated[tuple[str, ...], _List] = ()
    """A subset, by name, in the order of the labels; two make a binary problem; empty: all."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The share of each class's training images that is kept aside to choose by."""
    augment: Augment = Augment()
    """Changes made to training images."""
    whiten: int = Field(default=0, ge=0, le=2**31 - 1)
    """Principal components kept, each scaled to unit variance; 0 is plain pixels."""
    shape: Annotated[tuple[_Count, _Count, _Count], _List] = (3, 32, 32)
    """For synthetic: channels, height and width."""
    train_size: _Count = 10_000
    """For synthetic: the number of training images."""
    test_size: _Count = 1_000
    """For synthetic: the number of test images."""
    num_classes: int = Field(default=10, ge=2, le=2**31 - 1)
    """For synthetic: the number of classes."""

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.source in {"cifar10", "images", "arrays"} and not self.path:
            raise ValueError(f"path|must be set for the source {self.source}|''")
        if self.path.encode(errors="ignore").decode() != self.path:
            raise ValueError(f"path|must be UTF-8|{self.path!r}")
        if self.source == "synthetic" and self.train_size < self.num_classes:
            raise ValueError(f"train_size|must be at least num_classes ({self.num_classes})|{self.train_size}")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError(f"classes|must be at least two different names, or none|{list(self.classes)}")
        return self


class Model(Section):
    """Which network."""

    kind: Literal["mlp", "logistic"] = "mlp"
    """An MLP, or logistic regression, which has no hidden layer and none of the settings below."""
    hidden: Annotated[tuple[_Count, ...], _List] = (128,)
    """The widths of the hidden layers, from the input on."""
    activation: Literal["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"] = "relu"
    """g of the hidden layers."""
    normalization: Literal["none", "batch", "layer"] = "none"
    """What normalises a hidden layer's z: each unit over the batch, or each image over the units."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The probability that a hidden unit's output is dropped in training."""
    residual: bool = False
    """Whether hidden layers as wide as the one before add its output to theirs."""

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        widths = self.hidden
        if self.kind == "mlp" and self.residual and not any(a == b for a, b in itertools.pairwise(widths)):
            raise ValueError(f"hidden|must have two neighbours of one width where residual is true|{list(widths)}")
        return self


class Optimizer(Section):
    """How the parameters follow the gradient."""

    name: Literal["sgd", "adamw"] = "adamw"
    """Stochastic gradient descent with momentum, or Adam with decoupled weight decay."""
    lr: float = Field(default=1e-3, gt=0.0)
    """The learning rate that the schedule scales."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """The decay of the weight matrices; biases and normalisations are spared."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For sgd: the share of the last step's direction that is kept."""
    nesterov: bool = False
    """For sgd: look ahead along the momentum; needs momentum above 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For adamw: decay of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """For adamw: decay of the squared gradient's running mean."""
    clip_norm: float = Field(default=0.0, ge=0.0)
    """The largest norm of the whole gradient, beyond which it is shortened; 0: any."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate changes over the steps."""
    warmup_epochs: float = Field(default=0.0, ge=0.0, le=2**31 - 1)
    """Epochs over which the learning rate rises from 0 to where the schedule is."""

    @model_validator(mode="after")
    def _consistent(self) -> Optimizer:
        if self.name == "sgd" and self.nesterov and self.momentum == 0.0:
            raise ValueError("momentum|must be greater than 0 where nesterov is true|0.0")
        return self


class Train(Section):
    """How long, in what portions, and for what."""

    epochs: _Count = 15
    """How often every training image is seen."""
    batch_size: _Count = 128
    """Images in a global batch, whatever the number of processes."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """What is minimised."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """ε: the target is (1 − ε) · one-hot + ε / C."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The dtype of matrix products; parameters and sums stay float32."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Processor threads; 0 chooses by the size of the work."""
    save_seconds: float = Field(default=30.0, ge=0.0)
    """Seconds of training between checkpoints; 0 saves after every step."""


class Config(Section):
    """An experiment."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """From which everything random is derived."""
    data: Data = Data()
    """Which images."""
    model: Model = Model()
    """Which network."""
    optimizer: Optimizer = Optimizer()
    """How the parameters follow the gradient."""
    train: Train = Train()
    """How long, in what portions, and for what."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file, then what is set on top of it.

    Args:
        path: a TOML file.
        overrides: ``section.key=value`` each, the value read as TOML; a bare word is a string.

    Returns:
        The configuration, with ``data.path`` made absolute.

    Raises:
        UserError: all mistakes, one line each: the key, where it stands, the rule, the value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--config must name a file that can be read, got {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} must be UTF-8 text") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} must be TOML: {error}") from None
    places = {key: f"{path}:{line}" for key, line in _lines_of_keys(text)}
    mistakes = [mistake for override in overrides if (mistake := _override(tree, places, override))]
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        mistakes += [_sentence(details, places, str(path)) for details in error.errors(include_url=False)]
    if mistakes or config is None:
        raise UserError("\n".join(mistakes))
    return _with_absolute_path(config, places, str(path))


def dump_config(config: Config) -> str:
    """The whole configuration as TOML; `load_config` takes it back."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def check_agreement(given: Config, stored: Config, given_in: Path, stored_in: Path) -> None:
    """Refuses a configuration that differs from the one a run was begun with, naming each key."""
    ours, theirs = dict(_leaves(given.model_dump())), dict(_leaves(stored.model_dump()))
    lines = [
        f"{key} ({given_in}) must be {theirs[key]!r} as in {stored_in}, got {ours[key]!r}"
        for key in ours
        if ours[key] != theirs[key]
    ]
    if lines:
        raise UserError("\n".join(lines))


def _with_absolute_path(config: Config, places: dict[str, str], file: str) -> Config:
    path = config.data.path
    if not path:
        return config
    try:
        absolute = str(Path(path).expanduser().absolute())
    except RuntimeError:
        place = _place(["data", "path"], places, file)
        raise UserError(f"data.path ({place}) must be in a home that is known, got {path!r}") from None
    return config.model_copy(update={"data": config.data.model_copy(update={"path": absolute})})


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _override(tree: dict[str, Any], places: dict[str, str], override: str) -> str | None:
    """Puts one ``--set`` into the tree; returns the mistake where it cannot."""
    place = f"--set {override}"
    if "\n" in override:
        return f"--set must be one line, got {override!r}"
    key, equals, text = override.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        return f"--set must be section.key=value, got {override}"
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if not re.fullmatch(r"[^\s\"'\[\]{}=,#][^\"'\[\]{}=,\n]*", text):
            return f"{place}: the value must be TOML, got {text!r}"
        value = text
    section: Any = tree
    for depth, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            return f"{place}: {'.'.join(parts[: depth + 1])} must be a section, got {section!r}"
    section[parts[-1]] = value
    for known in [known for known in places if known.startswith(f"{key}.")]:
        del places[known]
    places[key] = place
    return None


def _lines_of_keys(text: str) -> Iterator[tuple[str, int]]:
    """Dotted keys and the lines they are set in, for sections that are flat."""
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[\[?([^\[\]]+)\]", line):
            section = _bare(header[1]) + "."
            yield section[:-1], number
        elif key := re.match(r"([\w.\"' \t-]+)=", line):
            yield section + _bare(key[1]), number


def _bare(key: str) -> str:
    """A dotted key without its quotes and the space around its parts."""
    return re.sub(r"[\s\"']", "", key)


def _sentence(details: Any, places: dict[str, str], file: str) -> str:  # noqa: ANN401 - pydantic's dictionary
    """One line for one of pydantic's errors."""
    location = [str(part) for part in details["loc"]]
    rule, value = _rule(details), repr(details["input"])
    if details["type"] == "value_error":
        field, rule, value = str(details["ctx"]["error"]).split("|", 2)
        location.append(field)
    key = ".".join(location)
    place = _place(location, places, file)
    if details["type"] == "extra_forbidden":
        return f"{key} ({place}) is not a known key{_nearest(key)}"
    return f"{key} ({place}) {rule}, got {value}"


def _place(location: list[str], places: dict[str, str], file: str) -> str:
    """Where a key is set, else the first key inside it, else the nearest section around it."""
    around = [".".join(location[:length]) for length in range(len(location), 0, -1)]
    inside = [known for known in places if known.startswith(f"{around[0]}.")]
    return next((places[known] for known in [around[0], *inside, *around] if known in places), file)


def _nearest(key: str) -> str:
    """The known key that the reader may have meant, or those there are."""
    section, _, name = key.rpartition(".")
    tree: Any = Config().model_dump()
    sections = {part: list(keys) for part, keys in tree.items() if isinstance(keys, dict)}
    sections |= {"": list(tree), "data.augment": list(tree["data"]["augment"])}
    if close := difflib.get_close_matches(name, sections.get(section, []), n=1):
        return f"; the nearest is {'.'.join(filter(None, [section, *close]))}"
    elsewhere = [f"{part}.{name}" for part, keys in sections.items() if part and name in keys]
    if elsewhere:
        return f"; the nearest is {elsewhere[0]}"
    return f"; known are {', '.join(sections[section])}" if section in sections else ""


def _rule(details: Any) -> str:  # noqa: ANN401 - pydantic's dictionary
    """What a field must be, in our words."""
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}"
    rules = {
        "greater_than": "must be greater than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "finite_number": "must be finite",
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
        "string_type": "must be a string",
        "tuple_type": "must be a list",
        "model_type": "must be a section",
        "too_long": "must have no more than {max_length} values",
        "missing": "must have one value more",
    }
    template = rules.get(details["type"])
    return template.format(**context) if template else details["msg"].lower()
