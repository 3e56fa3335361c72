"""Configurations as TOML files: reading one, with what is set on top, and each mistake in it in one line."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import ValidationError

from fcnet.config.schema import PLAIN_TEXT_RULE, Config, is_plain_text
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_VALUE_LENGTH = 300


def load_config(
    path: Path, overrides: Sequence[str] = (), *, flag: str = "--config", flag_overrides: Sequence[tuple[str, str]] = ()
) -> Config:
    """Reads a configuration file, then what is set on top of it.

    Args:
        path: a TOML file.
        overrides: ``section.key=value`` each, the value read as TOML; a bare word is a string.
        flag: what named the file, for the message.
        flag_overrides: what is set after that, each with the flag that said so.

    Returns:
        The configuration, with ``data.path`` made absolute.

    Raises:
        UserError: all mistakes, one line each: the key, where it stands, the rule, the value.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> config = load_config(find_config("digits"), ["train.epochs=3", "model.hidden=[64, 32]"])
        >>> config.train.epochs, config.model.hidden, config.data.source
        (3, (64, 32), 'digits')
        >>> load_config(find_config("digits"), ["train.epoch=3", "seed=-1"])
        Traceback (most recent call last):
            ...
        UserError: seed (--set seed=-1) must be at least 0, got -1
        train.epoch (--set train.epoch=3) is not a known key; the nearest is train.epochs
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{flag} must name a file that can be read, got {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} must be UTF-8 text") from None
    changes = [*(("--set", override) for override in overrides), *flag_overrides]
    try:
        tree = parse_toml(text)
    except ValueError as error:
        unset = [mistake for change in changes if (mistake := _apply_override({}, {}, *change))]
        raise UserError("\n".join([f"{path} must be TOML: {error}", *unset])) from None
    key_locations = {key: f"{path}:{line}" for key, line in _key_lines(text)}
    errors = [mistake for change in changes if (mistake := _apply_override(tree, key_locations, *change))]
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            errors += _error_lines(details, key_locations, str(path))
    if errors or config is None:
        raise UserError("\n".join(errors))
    return _with_absolute_path(config, key_locations, str(path))


def dump_config(config: Config) -> str:
    """The whole configuration as TOML; `load_config` takes it back.

    Example:
        >>> dump_config(Config()).splitlines()[:4]
        ['seed = 0', '', '[data]', 'source = "digits"']
    """
    return tomli_w.dumps(config.model_dump(mode="json"))


def check_agreement(given: Config, stored: Config, given_path: Path, stored_path: Path) -> None:
    """Refuses a configuration that differs from the one a run was begun with, naming each key."""
    ours, theirs = dict(flatten_config(given.model_dump())), dict(flatten_config(stored.model_dump()))
    lines = [
        f"{key} ({given_path}) must be {theirs[key]!r} as in {stored_path}, got {ours[key]!r}"
        for key in ours
        if ours[key] != theirs[key]
    ]
    if lines:
        raise UserError("\n".join(lines))


def _with_absolute_path(config: Config, key_locations: dict[str, str], file: str) -> Config:
    path = config.data.path
    if not path:
        return config
    place = _find_location(["data", "path"], key_locations, file)
    try:
        absolute = str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"data.path ({place}) must be in a home that is known, got {_format_value(path)}") from None
    if not is_plain_text(absolute):
        raise UserError(f"data.path ({place}) must be {PLAIN_TEXT_RULE}, got {_format_value(absolute)}")
    return config.model_copy(update={"data": config.data.model_copy(update={"path": absolute})})


def parse_toml(text: str) -> dict[str, Any]:
    """Reads TOML.

    Raises:
        ValueError: it is none, or Python cannot hold it.

    Example:
        >>> parse_toml("value = [1e-4, 1e-3]")
        {'value': [0.0001, 0.001]}
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it must be nested less deeply") from None


def flatten_config(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting of a configuration's tree under its dotted key.

    Example:
        >>> list(flatten_config({"seed": 0, "train": {"epochs": 3}}))
        [('seed', 0), ('train.epochs', 3)]
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _apply_override(tree: dict[str, Any], key_locations: dict[str, str], flag: str, override: str) -> str | None:
    """Puts one ``--set``, or what another flag sets, into the tree; returns the mistake where it cannot."""
    place = f"{flag} {override}"
    if not is_plain_text(override):
        return f"{flag} must be {PLAIN_TEXT_RULE}, got {_format_value(override)}"
    key, equals, text = override.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        return f"{flag} must be section.key=value, got {override}"
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        if not re.fullmatch(r"[^\s\"'\[\]{}=,#][^\"'\[\]{}=,\n]*", text):
            return f"{place}: the value must be TOML, got {_format_value(text)}"
        value = text
    section: Any = tree
    for depth, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            return f"{place}: {'.'.join(parts[: depth + 1])} must be a section, got {_format_value(section)}"
    section[parts[-1]] = value
    for known in [known for known in key_locations if known.startswith(f"{key}.")]:
        del key_locations[known]
    key_locations[key] = place
    return None


def _key_lines(text: str) -> Iterator[tuple[str, int]]:
    """Dotted keys and the lines they are set in, for sections that are flat."""
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[\[?([^\[\]]+)\]", line):
            section = _strip_key(header[1]) + "."
            yield section[:-1], number
        elif key := re.match(r"([\w.\"' \t-]+)=", line):
            yield section + _strip_key(key[1]), number


def _strip_key(key: str) -> str:
    """A dotted key without its quotes and the space around its parts."""
    return re.sub(r"[\s\"']", "", key)


def _error_lines(details: Any, key_locations: dict[str, str], file: str) -> Iterator[str]:  # noqa: ANN401 - pydantic's dictionary
    """A line for each mistake that one of pydantic's errors stands for: several of the rules between fields."""
    location = [str(part) for part in details["loc"]]
    if details["type"] == "value_error":
        for mistake in str(details["ctx"]["error"]).split("\n"):
            field, rule, value = mistake.split("|", 2)
            yield f"{'.'.join([*location, field])} ({_find_location([*location, field], key_locations, file)}) {rule}, got {value}"
        return
    key, place = ".".join(location), _find_location(location, key_locations, file)
    if details["type"] == "extra_forbidden":
        yield f"{key if key.isprintable() and key else _format_value(key)} ({place}) is not a known key{_suggest_key(key)}"
    else:
        yield f"{key} ({place}) {_describe_rule(details)}, got {_format_value(details['input'])}"


def _format_value(value: object) -> str:
    """A value in one line of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no more than some thousand digits
        return "a number of too many digits"
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}…"


def _find_location(location: list[str], key_locations: dict[str, str], file: str) -> str:
    """Where a key is set, else the first key inside it, else the nearest section around it."""
    around = [".".join(location[:length]) for length in range(len(location), 0, -1)]
    inside = [known for known in key_locations if known.startswith(f"{around[0]}.")]
    return next((key_locations[known] for known in [around[0], *inside, *around] if known in key_locations), file)


def _suggest_key(key: str) -> str:
    """The known key that the reader may have meant, or those there are."""
    section, _, name = key.rpartition(".")
    tree: Any = Config().model_dump()
    sections = {part: list(keys) for part, keys in tree.items() if isinstance(keys, dict)}
    sections |= {"": list(tree), "data.augment": list(tree["data"]["augment"])}
    elsewhere = [f"{part}.{name}" for part, keys in sections.items() if part and name in keys]
    if name in tree and name not in sections:
        elsewhere.append(name)
    if elsewhere:
        return f"; the nearest is {elsewhere[0]}"
    if close := difflib.get_close_matches(name, sections.get(section, []), n=1):
        return f"; the nearest is {'.'.join(filter(None, [section, *close]))}"
    return f"; known are {', '.join(sections[section])}" if section in sections else ""


def _describe_rule(details: Any) -> str:  # noqa: ANN401 - pydantic's dictionary
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
