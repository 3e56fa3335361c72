"""Configurations as TOML files: reading, overriding, writing, and one line for each error.

A tree is the nested dictionary that TOML gives. Errors name the place of a key: ``FILE:LINE``, or the flag that set it.
"""

from __future__ import annotations

import codecs
import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import ValidationError

from fcnet.config.schema import Config
from fcnet.config.suggestions import suggest_choice, suggest_key, suggest_override, suggest_value
from fcnet.config.values import PLAIN_TEXT_RULE, is_plain_text, shorten_value
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_MAX_BYTES = 1 << 18
_MAX_ERRORS = 20


def load_config(
    path: Path, overrides: Sequence[str] = (), *, flag: str = "--config", flag_overrides: Sequence[tuple[str, str]] = ()
) -> Config:
    """Reads a configuration file and applies overrides to it.

    Args:
        path: TOML file.
        overrides: values of ``--set``: ``section.key=value`` each, the value in TOML or a bare word for a string.
        flag: name of the argument that gave ``path``, for errors.
        flag_overrides: further overrides, applied last, each with the name of its flag.

    Returns:
        The configuration, with ``data.path`` and ``model.init_from`` made absolute.

    Raises:
        UserError: the file or an override has errors. The message has one line for each: the key, its place, the rule
            and the value.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> config = load_config(find_config("digits"), ["train.epochs=3", "model.hidden=[64, 32]"])
        >>> config.train.epochs, config.model.hidden, config.data.source
        (3, (64, 32), 'digits')
        >>> load_config(find_config("digits"), ["train.epoch=3", "seed=-1"])
        Traceback (most recent call last):
            ...
        fcnet.UserError: seed (--set seed=-1) must be at least 0, got -1
        train.epoch (--set train.epoch=3) is not a known key; the nearest is train.epochs
    """
    text = _read_text(path, flag)
    changes = [*(("--set", override) for override in overrides), *flag_overrides]
    try:
        tree = parse_toml(text)
    except ValueError as error:
        # The overrides have no tree to change, but their own errors are reported along with the file's.
        errors = [message for change in changes if (message := _apply_override({}, {}, *change))]
        raise UserError(f"{path} must be TOML: {error}", *errors) from None
    places = {key: f"{path}:{line}" for key, line in _key_lines(text)}
    errors = [message for change in changes if (message := _apply_override(tree, places, *change))]
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        broken = error.errors(include_url=False)
        for details in broken[:_MAX_ERRORS]:
            errors += _error_lines(details, places, str(path))
        if len(broken) > _MAX_ERRORS:
            errors.append(f"and {len(broken) - _MAX_ERRORS:,} more errors")
    if errors or config is None:
        raise UserError(*errors)
    data_path, init_from = (
        _absolute_path(value, key, places, str(path))
        for key, value in (("data.path", config.data.path), ("model.init_from", config.model.init_from))
    )
    data, model = (
        config.data.model_copy(update={"path": data_path}),
        config.model.model_copy(update={"init_from": init_from}),
    )
    return config.model_copy(update={"data": data, "model": model})


def config_sources(
    path: Path, overrides: Sequence[str] = (), flag_overrides: Sequence[tuple[str, str]] = (), *, name: str
) -> dict[str, str]:
    """Returns where the values of a configuration come from that are not left at their defaults.

    Args:
        path: TOML file, which `load_config` reads without an error.
        overrides: values of ``--set``.
        flag_overrides: further overrides, applied last, each with the name of its flag.
        name: what to call the file.

    Returns:
        By dotted key: the name of the file, or of the flag.

    Example:
        >>> from fcnet.config.presets import find_config
        >>> sources = config_sources(find_config("digits"), ["train.epochs=3"], name="digits")
        >>> sources["train.epochs"], sources["train.batch_size"], "optimizer.momentum" in sources
        ('--set', 'digits', False)
    """
    text = _read_text(path, "--config")
    tree, places = parse_toml(text), {key: "" for key, _ in _key_lines(text)}
    for change in (*(("--set", override) for override in overrides), *flag_overrides):
        _apply_override(tree, places, *change)
    found = ((key, _find_place(key.split("."), places, "")) for key, _ in flatten_config(tree))
    return {key: place.partition(" ")[0] or name for key, place in found}


def _read_text(path: Path, flag: str) -> str:
    """Reads a file of limited size: a device may have no end, and a pipe does not tell its size."""
    if "\0" in str(path):
        raise UserError(f"{flag} must be a path without NUL characters, got {shorten_value(str(path))}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"{path} must have at most {_MAX_BYTES:,} bytes, got more")
        return content.decode("utf-8-sig").replace("\r\n", "\n")  # editors on Windows may add a byte order mark
    except OSError as error:
        raise UserError(f"{flag} must be a file that can be read, got {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        found = "UTF-16" if is_utf16 else "another encoding"
        raise UserError(f"{path} must be UTF-8 text, got {found}; save it as UTF-8") from None


def dump_config(config: Config) -> str:
    """Returns the whole configuration as TOML, which `load_config` reads back.

    Example:
        >>> dump_config(Config()).splitlines()[:4]
        ['seed = 0', '', '[data]', 'source = "digits"']
    """
    return tomli_w.dumps(config.model_dump(mode="json"))


def check_agreement(given: Config, stored: Config, given_path: Path, stored_path: Path) -> None:
    """Checks that a given configuration equals the stored one of a run.

    Args:
        given: configuration that was given.
        stored: configuration that the run was started with.
        given_path: file of the one, for the error.
        stored_path: file of the other.

    Raises:
        UserError: they differ; the message has one line for each key.
    """
    given_values, stored_values = (dict(flatten_config(config.model_dump())) for config in (given, stored))
    errors = [
        f"{key} ({given_path}) must be {shorten_value(stored_values[key])} as in {stored_path}, "
        f"got {shorten_value(value)}"
        for key, value in given_values.items()
        if value != stored_values[key]
    ]
    if errors:
        raise UserError(*errors)


def parse_toml(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: the text is not TOML, or Python cannot represent it.

    Example:
        >>> parse_toml("value = [1e-4, 1e-3]")
        {'value': [0.0001, 0.001]}
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a date or an integer
        reason = "an integer with too many digits" if "digits" in str(error) else str(error)
        raise ValueError(reason) from None


def flatten_config(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields every value of a tree with its dotted key.

    Example:
        >>> list(flatten_config({"seed": 0, "train": {"epochs": 3}}))
        [('seed', 0), ('train.epochs', 3)]
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def describe_rule(details: Any) -> str:  # noqa: ANN401 - pydantic's dictionary
    """Returns the rule of a field that pydantic found broken, from one entry of ``ValidationError.errors()``."""
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        choices = context["expected"].replace(" or ", ", ").replace("'", '"')
        return f"must be one of {choices}"
    if details["type"] == "missing" and isinstance(details["loc"][-1], int):
        return f"must have at least {details['loc'][-1] + 1} values"
    rules = {
        "greater_than": "must be greater than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "finite_number": "must be finite",
        "int_type": "must be an integer",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
        "string_type": "must be a string",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        "dict_type": "must be a section",
        "model_type": "must be a section",
        "missing": "must be there",
        "extra_forbidden": "must be absent",
        "too_long": "must have at most {max_length} values",
    }
    template = rules.get(details["type"])
    return template.format(**context) if template else details["msg"].lower()


def describe_first_error(error: ValidationError) -> str:
    """Returns one line for the first entry of a JSON object that breaks its model: the key, the rule and the value.

    Example:
        >>> from fcnet.config.schema import Train
        >>> try:
        ...     Train.model_validate({"epochs": "3"})
        ... except ValidationError as error:
        ...     print(describe_first_error(error))
        epochs must be an integer, got "3"
    """
    details = error.errors(include_url=False)[0]
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    missing = details["type"] == "missing"
    location = details["loc"][:-1] if missing and isinstance(details["loc"][-1], int) else details["loc"]
    key = shorten_value(".".join(map(str, location)))[1:-1]
    value = "nothing" if missing and location == details["loc"] else shorten_value(details["input"])
    return f"{key} {describe_rule(details)}, got {value}"


def _absolute_path(path: str, key: str, places: dict[str, str], file: str) -> str:
    """Returns a path of the configuration made absolute; an empty one stays empty."""
    if not path:
        return path
    place = _find_place(key.split("."), places, file)
    try:
        absolute = str(Path(path).expanduser().absolute())
    except RuntimeError:
        rule = "must begin with the home folder of a known user"
        raise UserError(f"{key} ({place}) {rule}, got {shorten_value(path)}") from None
    if not is_plain_text(absolute):
        raise UserError(f"{key} ({place}) must be {PLAIN_TEXT_RULE}, got {shorten_value(absolute)}")
    return absolute


def _apply_override(tree: dict[str, Any], places: dict[str, str], flag: str, override: str) -> str | None:
    """Applies one ``section.key=value`` to the tree; returns an error message if that fails."""
    place = f"{flag} {override}"
    if not is_plain_text(override):
        return f"{flag} must be {PLAIN_TEXT_RULE}, got {shorten_value(override)}"
    key, equals, text = override.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        return f"{flag} must be section.key=value, got {override}"
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        # A bare word is a string. Text with quotes, brackets or commas is TOML with a typing error.
        if not re.fullmatch(r"[^\s\"'\[\]{}=,#][^\"'\[\]{}=,\n]*", text):
            remedy = suggest_override(key, text) if text else None
            remedy = f"; write {remedy}" if remedy and remedy != f"--set {shlex.quote(override)}" else ""
            return f"{place}: the value must be TOML, got {text or 'nothing'}{remedy}"
        value = text
    section: Any = tree
    for depth, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            return f"{place}: {'.'.join(parts[: depth + 1])} must be a section, got {shorten_value(section)}"
    section[parts[-1]] = value
    for replaced in [known for known in places if known.startswith(f"{key}.")]:
        del places[replaced]
    places[key] = place
    return None


def _key_lines(text: str) -> Iterator[tuple[str, int]]:
    """Yields the dotted keys of a file and their lines. Sections must be flat: tomllib reports no lines itself."""
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[\[?([^\[\]]+)\]", line):
            section = _strip_key(header[1]) + "."
            yield section[:-1], number
        elif key := re.match(r"([\w.\"' \t-]+)=", line):
            yield section + _strip_key(key[1]), number


def _strip_key(key: str) -> str:
    """Removes the quotes of a dotted key and the space around its parts."""
    return re.sub(r"[\s\"']", "", key)


def _error_lines(details: Any, places: dict[str, str], file: str) -> Iterator[str]:  # noqa: ANN401 - pydantic's dictionary
    """Yields the lines for one error of pydantic, which stands for several where rules between fields are broken."""
    location = [str(part) for part in details["loc"]]
    if details["type"] == "value_error":
        for line in str(details["ctx"]["error"]).split("\n"):
            field, rule, value = line.split("|", 2)
            where = [*location, field]
            yield f"{'.'.join(where)} ({_find_place(where, places, file)}) {rule}, got {value}"
        return
    if details["type"] == "missing":  # a value that a list of fixed length lacks: the list is at fault
        location = location[:-1]
    key, place = ".".join(location), _find_place(location, places, file)
    if details["type"] == "extra_forbidden":
        shown = key if key.isprintable() and key else shorten_value(key)
        yield f"{shown} ({place}) is not a known key{suggest_key(key)}"
    else:
        value, remedy = shorten_value(details["input"]), _suggest(details, key, place)
        yield f"{key} ({place}) {describe_rule(details)}, got {value}{remedy}"


def _suggest(details: Any, key: str, place: str) -> str:  # noqa: ANN401 - pydantic's dictionary
    """Returns the end of the error for a value: what it most probably means, or nothing."""
    value = details["input"]
    if details["type"] == "literal_error":
        choice = suggest_choice(value, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
        return f'; the nearest is "{choice}"' if choice else ""
    form = suggest_value(details["type"], value, key)
    if form is not None and details["type"].endswith("_type") and place.startswith("--set "):
        # The whole override, as a shell needs it, also where one item of its list is wrong.
        override, _, text = place.removeprefix("--set ").partition("=")
        form = suggest_override(override, text) if override in key else form
    return f"; write {form}" if form else ""


def _find_place(location: list[str], places: dict[str, str], file: str) -> str:
    """Returns the place of a key, or else of the first key inside it, or else of the nearest section around it."""
    around = [".".join(location[:length]) for length in range(len(location), 0, -1)]
    inside = [known for known in places if known.startswith(f"{around[0]}.")]
    return next((places[known] for known in [around[0], *inside, *around] if known in places), file)
