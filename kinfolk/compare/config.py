"""What a comparison compares: contenders, seeds and at most one varied field, at one budget."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from kinfolk.recipes import RECIPES, recipe, with_field
from kinfolk.train import TrainConfig, load_config

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,+_()-]*")


@dataclass(frozen=True)
class Contender:
    """One method of a comparison.

    Args:
        name: what tables and folders call it: letters, digits, spaces and ``. , + - _ ( )``.
        config: its run; name and seed are set by the comparison.

    Raises:
        ValueError: for another name.
    """

    name: str
    config: TrainConfig

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a contender's name begins with a letter or digit and holds letters, digits, spaces and"
                f" . , + - _ ( ) only; found {self.name!r}"
            )


@dataclass(frozen=True)
class Variation:
    """The field that a comparison varies, for all contenders alike.

    Args:
        field: a field of `kinfolk.train.TrainConfig` by its dotted name, such as ``batch_size`` or
            ``method.temperature``, or one of its parts: ``derived``, ``relation``, ``sampler``, ``encoder``,
            ``optimizer``.
        values: its values as one would write them, each once: ``("32", "64")``, or for a part
            ``("none", "imbalanced rule=exponential")``.

    Raises:
        ValueError: for no value, or one value twice.
    """

    field: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(str(value) for value in self.values))
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.field} must be varied over at least one value, each once; found {self.values}")


@dataclass(frozen=True)
class ComparisonConfig:
    """Contenders x settings x seeds on one source with one encoder, at an equal budget of image views.

    Args:
        name: what the page calls the comparison.
        contenders: at least one, each with a name of its own.
        seeds: at least one; differences are taken seed by seed.
        baseline: the contender that others are compared with; None takes the first.
        varied: the field that is varied; None varies nothing.
        image_views: budget of every run; None keeps what the configs say, which must then be equal.

    Raises:
        ValueError: for no contender or seed, names or seeds that repeat, or a baseline that is no contender.

    Example:
        >>> config = ComparisonConfig("two", (contender("simclr-digits"), contender("dcl=simclr-digits")), seeds=(0,))
        >>> [one.name for one in config.contenders], config.reference_name
        (['simclr', 'dcl'], 'simclr')
    """

    name: str
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str | None = None
    varied: Variation | None = None
    image_views: int | None = None

    def __post_init__(self) -> None:
        names = [one.name for one in self.contenders]
        if not names or len({folder_name(name) for name in names}) < len(names):
            raise ValueError(
                f"a comparison needs contenders with names that differ; found {', '.join(names) or 'none'}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be at least one number from 0, each once; found {self.seeds}")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"the baseline must be one of {', '.join(names)}; found {self.baseline!r}")
        if self.image_views is not None and self.image_views < 1:
            raise ValueError(f"image_views must be at least 1; found {self.image_views}")
        if self.varied is not None:
            folders = {folder_name(value) for value in self.varied.values}
            if len(folders) < len(self.varied.values):
                raise ValueError(
                    f"values of {self.varied.field} must differ in letters or digits: {self.varied.values}"
                )

        places = [f"{folder_name(name)}-{folder_name(setting)}" for name in names for setting in self.settings]
        if twice := sorted({place for place in places if places.count(place) > 1}):
            raise ValueError(f"names and values together must differ too, but two runs would be called {twice[0]!r}")

    @property
    def reference_name(self) -> str:
        """The contender that others are compared with."""
        return self.contenders[0].name if self.baseline is None else self.baseline

    @property
    def settings(self) -> tuple[str, ...]:
        """The values of the varied field, or one empty text."""
        return ("",) if self.varied is None else self.varied.values

    def run_config(self, one: Contender, setting: str, seed: int) -> TrainConfig:
        """The config of one run."""
        config = one.config if self.varied is None else with_field(one.config, self.varied.field, setting)
        if self.image_views is not None:
            config = replace(config, image_views=self.image_views)
        evaluation = replace(config.evaluation, baselines=False)  # measured once for all runs on the same data
        name = ", ".join([one.name, *([setting] if setting else []), f"seed {seed}"])
        return replace(config, name=name, seed=seed, evaluation=evaluation)


def contender(text: str) -> Contender:
    """Read a contender from a line such as ``dcl=simclr-fashion-mnist method.decoupled=true``.

    The first word is a recipe, a config.yaml or a run's folder, with a name before it if it should have one; changes
    of fields follow, as in `with_field`. A recipe's method is the name otherwise.

    Raises:
        ValueError: for an unknown recipe or field, or a value of the wrong type.
        FileNotFoundError: for a file that is not there.

    Example:
        >>> one = contender("DCL=simclr-digits method.decoupled=true epochs=3")
        >>> one.name, one.config.method.decoupled, one.config.epochs
        ('DCL', True, 3)
    """
    try:
        first, *changes = shlex.split(text) or [""]
    except ValueError as error:
        raise ValueError(f"the contender {text!r} cannot be taken apart: {error}") from None
    name, equals, origin = first.partition("=")
    if not equals:
        name, origin = "", first
    config = recipe(origin) if origin in RECIPES or not _is_path(origin) else load_config(origin)
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"{first}: changes are written field=value; found {change!r}")
        config = with_field(config, field, value)
    return Contender(name or (origin.split("-")[0] if origin in RECIPES else config.method.kind), config)


def folder_name(text: str) -> str:
    """A name or a setting as a folder's name.

    Example:
        >>> folder_name("imbalanced rule=long-tail factor=100")
        'imbalanced-rule-long-tail-factor-100'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.").lower()


def _is_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or (Path(text) / "config.yaml").is_file()
