"""What a study is: a grid of steering configs from a TOML file, checked before any work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from stas.assets import BUNDLED
from stas.checks import DType, check_arguments, expect, is_whole
from stas.measures.measure import check_names
from stas.method.config import STASConfig
from stas.method.presets import INTERVENTIONS, preset
from stas.pipelines.prompts import Sample

OFF, BASE = "off", "base"


Vary = Literal["each", "all"]


# Dimensions by what recording says of them, for the paper's ablation over dimensions.
DimsClass = Literal["massive", "weak", "ordinary", "random"]


DIMS_CLASSES: tuple[DimsClass, ...] = get_args(DimsClass)


FIELDS = tuple(each.name for each in fields(STASConfig))


INTERVENTION = "intervention"


PRESET_FIELDS = ("op", "regions", "scale")  # what an intervention decides


AXES = (*FIELDS, INTERVENTION)


LONGEST = 60  # characters of a setting's name in the name of its folder


@dataclass(frozen=True)
class Setting:
    """One way to make the videos: a name, and how to steer.

    Args:
        name: Unique among those of a run; "off" steers nothing.
        config: Fields of STASConfig, where `dims` may be one of DIMS_CLASSES; None for "off".
        values: By axis of a study, the value that this setting stands for; of several axes when
            they agree in it, as they do in the base.
    """

    name: str
    config: Mapping[str, Any] | None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dims_class(self) -> str | None:
        """The class that `dims` names, None when it names dimensions or nothing."""
        dims = None if self.config is None else self.config.get("dims")
        return dims if isinstance(dims, str) else None

    def steering(self, **changes: Any) -> STASConfig | None:
        """How to steer, with some fields in place of its own; None for not at all."""
        return None if self.config is None else STASConfig.from_dict({**self.config, **changes})


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of configs x prompts x seeds, with steering off as what all are compared with.

    Args:
        name: What the report is called.
        prompts: The prompts, with the name and SHA-256 of their list.
        prompt_file: Name and hash of the prompts' list; None when the study holds them itself.
        axes: By field of STASConfig, or "intervention" (a preset of `stas.method.presets`), its
            values. `dims` may also be "massive", "weak", "ordinary" or "random": dimensions of
            that class, as many as are massive, found by recording first.
        base: Fields of STASConfig that are the same in every setting unless an axis sets them.
        vary: "each" changes one axis at a time from the base; "all" makes every combination.
        model: "bundled", a folder or a hub id.
        revision: Branch, tag or commit of a hub id.
        dtype: See `stas.pipelines.options.PipelineOptions`.
        arguments: Of the pipeline's call.
        seed: Of the first video; every sample has a seed of its own, counted on from here.
        samples_per_prompt: Videos of each prompt.
        measures: Names of `stas.measures.measure.NAMES`, or None for all that the packages allow.
        own_measures: Measures of your own, "module:function", see
            `stas.measures.measure.load_measure`.
        encoders: DINO or CLIP models, see `stas.measures.features.load_encoder`.
        aesthetic: File of the aesthetic head, see `stas.measures.features.load_aesthetic`.
        aesthetic_clip: The CLIP model that it was fitted on; that function's own by default.
        recorded: Videos that are recorded to find the classes of dimensions.

    Raises:
        TypeError, ValueError: A value is not of its kind, an axis is unknown, or two configs are
            alike; the message says what was expected.

    Example:
        >>> study = Study(name="alpha", prompts=("a red circle",), axes={"scale": (1.0, 1.5)})
        >>> [setting.name for setting in study.settings()]
        ['off', 'base', 'scale=1.5']
    """

    name: str
    prompts: tuple[str, ...]
    axes: Mapping[str, tuple[Any, ...]]
    prompt_file: Mapping[str, Any] | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    vary: Vary = "each"
    model: str = BUNDLED
    revision: str | None = None
    dtype: DType = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    samples_per_prompt: int = 1
    measures: tuple[str, ...] | None = None
    own_measures: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    aesthetic: str | None = None
    aesthetic_clip: str | None = None
    recorded: int = 8

    def __post_init__(self) -> None:
        expect(isinstance(self.model, str), f"model must be a text, but got {self.model!r}")
        for name in ("revision", "aesthetic", "aesthetic_clip"):
            value = getattr(self, name)
            expect(value is None or isinstance(value, str), f"{name} must be a text")
        for name in ("prompts", "own_measures", "encoders", "measures"):
            if (values := getattr(self, name)) is not None:
                texts = isinstance(values, tuple) and all(isinstance(v, str) for v in values)
                expect(texts, f"{name} must be a list of texts, but got {values!r}")
        expect(bool(self.prompts), "there is no prompt")
        expect(all(map(str.strip, self.prompts)), "a prompt is empty")
        check_names(self.measures or ())
        taken = self.own_measures or self.encoders or self.aesthetic
        expect(self.measures != () or bool(taken), "there is nothing to measure")
        clip = self.aesthetic_clip is None or self.aesthetic is not None
        expect(clip, "aesthetic_clip is the CLIP of an aesthetic head: give it by aesthetic")
        expect(self.vary in get_args(Vary), f'vary must be "each" or "all", but got {self.vary!r}')
        for name, least in (("seed", 0), ("samples_per_prompt", 1), ("recorded", 1)):
            value = getattr(self, name)
            expect(
                is_whole(value, least),
                f"{name} must be a whole number, {least} or more, but got {value!r}",
            )
        last = self.seed + len(self.prompts) * self.samples_per_prompt
        expect(last <= 2**63, "the last seed must be below 2**63")
        for name in ("arguments", "base", "axes"):
            expect(isinstance(getattr(self, name), Mapping), f"{name} must be a table")
        check_arguments(self.arguments)
        expect("prompt" not in self.arguments, "prompts stand in prompts, not in arguments")
        if unknown := sorted(set(self.base) - set(FIELDS)):
            raise ValueError(f"base has no {', '.join(unknown)}. Known: {', '.join(FIELDS)}.")
        if unknown := sorted(set(self.axes) - set(AXES)):
            raise ValueError(
                f"There is no axis {', '.join(map(repr, unknown))}. Known: {', '.join(AXES)}."
            )
        expect(bool(self.axes), f"there is no axis. Known: {', '.join(AXES)}")
        for axis, values in self.axes.items():
            listed = isinstance(values, tuple) and len(values) > 0
            expect(listed, f"the axis {axis} has no values: expected a list, but got {values!r}")
        if both := sorted({*PRESET_FIELDS} & set(self.axes) if INTERVENTION in self.axes else ()):
            expect(self.vary == "each", f"intervention decides {both[0]}: vary one of them")
        self.settings()

    def settings(self) -> list[Setting]:
        """All settings, "off" first.

        Raises:
            ValueError: Two of them are alike, or one is no steering config.
        """
        return list(self._all)

    @cached_property
    def _all(self) -> tuple[Setting, ...]:
        base = _key(_checked(self.base, BASE))
        found: dict[str, Setting] = {}  # by config
        for values in self._combinations():
            name = _name(values)
            config = _checked(_with_values(self.base, values), name)
            key = _key(config)
            if (same := found.get(key)) is None:
                name = BASE if self.vary == "each" and key == base else name
                found[key] = Setting(name, config, values)
            elif self.vary == "all" or set(values) & set(same.values):
                raise ValueError(f"Two configs are alike: {same.name} and {name}. Remove one.")
            else:  # one setting stands for values of two axes, as the base does
                found[key] = replace(same, values={**same.values, **values})
        return (Setting(OFF, None), *found.values())

    def _combinations(self) -> Iterator[dict[str, Any]]:
        if self.vary == "each":
            for axis, values in self.axes.items():
                yield from ({axis: value} for value in values)
        else:
            for chosen in itertools.product(*self.axes.values()):
                yield dict(zip(self.axes, chosen, strict=True))

    def settings_of(self, axis: str) -> list[tuple[str, list[Setting]]]:
        """For each value of an axis, in words, the settings that stand for it."""
        settings = self.settings()
        return [
            (
                in_words(value),
                [setting for setting in settings if setting.values.get(axis) == value],
            )
            for value in self.axes[axis]
        ]

    def samples(self) -> list[Sample]:
        """Every prompt and seed; seeds are all different."""
        per_prompt = self.samples_per_prompt
        return [
            Sample(
                f"{number:04d}-seed{self.seed + number * per_prompt + repeat}",
                prompt,
                self.seed + number * per_prompt + repeat,
                None if self.prompt_file is None else {**self.prompt_file, "prompt": number + 1},
            )
            for number, prompt in enumerate(self.prompts)
            for repeat in range(per_prompt)
        ]

    def to_dict(self) -> dict[str, Any]:
        """All that decides the study's videos and numbers, as JSON's own types."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


def folder_name(number: int, setting: Setting) -> str:
    """The name of a setting's folder, in the order of `Study.settings`."""
    return f"{number:02d}-{setting.name[:LONGEST]}"


def in_words(value: Any) -> str:
    """A value of an axis as it stands in names and tables.

    Example:
        >>> in_words(("first_frame", "boundary")), in_words(0.4)
        ('first_frame+boundary', '0.4')
    """
    if isinstance(value, list | tuple):
        return "+".join(map(in_words, value))
    # Short where that is the same number: two values must never share a name.
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def frozen(value: Any) -> Any:
    """A value from JSON or TOML with tuples for its lists, as a study holds it.

    Example:
        >>> frozen({"regions": [["boundary"], []]})
        {'regions': (('boundary',), ())}
    """
    if isinstance(value, Mapping):
        return {key: frozen(each) for key, each in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _name(values: Mapping[str, Any]) -> str:
    return ",".join(f"{axis}={in_words(value)}" for axis, value in values.items())


def _with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    config = dict(base)
    for axis, value in values.items():
        if axis != INTERVENTION:
            config[axis] = value
        elif isinstance(value, str) and value in INTERVENTIONS:
            found = preset(value)
            config |= {name: getattr(found, name) for name in PRESET_FIELDS}
        else:
            raise ValueError(
                f"there is no intervention {value!r}. Known: {', '.join(INTERVENTIONS)}"
            )
    return config


def _checked(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All fields of a config, each checked."""
    dims = config.get("dims")
    if isinstance(dims, str) and dims not in DIMS_CLASSES:
        raise ValueError(
            f"{name}: dims must be numbers or one of {', '.join(DIMS_CLASSES)}, but got {dims!r}."
        )
    try:
        full = STASConfig(**{**config, "dims": None if isinstance(dims, str) else dims})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    return full.to_dict() | ({"dims": dims} if isinstance(dims, str) else {})


def with_dims(
    settings: Iterable[Setting], of_class: Mapping[str, tuple[int, ...]]
) -> list[Setting]:
    """The settings with the classes of dimensions replaced by dimensions.

    Raises:
        ValueError: Two configs have become alike.

    Example:
        >>> setting = Setting("dims=weak", {"dims": "weak"})
        >>> with_dims([setting], {"weak": (175,)})[0].config
        {'dims': [175]}
    """
    found: dict[str, Setting] = {}
    for setting in settings:
        if setting.dims_class is not None:
            dims = list(of_class[setting.dims_class])
            setting = replace(setting, config={**(setting.config or {}), "dims": dims})
        key = "" if setting.config is None else _key(setting.config)
        if key in found:
            raise ValueError(f"Two configs are alike: {found[key].name} and {setting.name}.")
        found[key] = setting
    return list(found.values())
