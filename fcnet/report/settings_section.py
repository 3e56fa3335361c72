"""The report's section on the configuration: settings that differ between runs, that were changed, and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcnet.config.schema import Config
from fcnet.config.toml import flatten_config
from fcnet.config.values import format_value
from fcnet.experiment.provenance import setting_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcnet.report.run_data import RunData


@dataclass(frozen=True)
class Setting:
    """A setting of one run or of several.

    Attributes:
        key: the dotted key.
        values: its value in each run, as TOML.
        sources: where each run has it from: the name of a configuration file, a flag, ``default``, or nothing where
            the run does not say.
        differs: whether the runs have different values.
        changed: whether any run has another value than the default.
    """

    key: str
    values: tuple[str, ...]
    sources: tuple[str, ...]
    differs: bool
    changed: bool


def list_settings(runs: Sequence[RunData]) -> list[Setting]:
    """Lists every setting: first those that differ between the runs, then those that are not left at their default.

    Within each of the three groups they are in the order of the configuration.
    """
    columns = [_flatten(run.config) for run in runs]
    given = [setting_sources(run.commands) for run in runs]
    settings = []
    for key, default in _flatten(Config()).items():
        values = tuple(column[key] for column in columns)
        sources = tuple(
            sources.get(key, "default" if value == default else "")
            for value, sources in zip(values, given, strict=True)
        )
        settings.append(Setting(key, values, sources, len(set(values)) > 1, any(value != default for value in values)))
    return sorted(settings, key=lambda setting: (not setting.differs, not setting.changed))


def _flatten(config: Config) -> dict[str, str]:
    return {key: format_value(value) for key, value in flatten_config(config.model_dump())}
