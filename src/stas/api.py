"""steer and record: one call that attaches to a pipeline or a transformer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from numbers import Integral
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn

from stas.config import Blocks, STASConfig
from stas.hooks import Branch, TransformerHooks, config_of, is_hooked
from stas.intervene import DimsOrigin, TransformerSteering
from stas.loop import LoopListener
from stas.models import ModelSpec, UnsupportedModelError, find_spec, supported_text
from stas.observe import TransformerRecording
from stas.profiles import find_profile
from stas.schedule import StepClock, Window
from stas.stats import ActivationStats

HandleT = TypeVar("HandleT", bound="Handle")


class Handle:
    """What undoes a `steer` or a `record`; also a context manager that does so at its end."""

    def __init__(
        self,
        parts: Mapping[str, TransformerHooks],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        self._parts = dict(parts)
        self._verb = next(part.verb for part in parts.values())
        self._clock = clock
        self._listener = listener
        self._attached = False

    def _attach(self) -> None:
        try:
            for part in self._parts.values():
                part.attach()
            if self._listener is not None:
                self._listener.attach()
        except BaseException:
            self._attached = True
            self.remove()
            raise
        self._attached = True

    def set_step(self, step: int, num_steps: int, *, branch: Branch | None = None) -> None:
        """Say where your own denoising loop is, before the forward of that step.

        Only for a bare transformer: a pipeline's schedule tells by itself.

        Args:
            step: The denoising step, from 0 to `num_steps` - 1.
            num_steps: How many steps the loop has, at least 1.
            branch: Which branch of classifier-free guidance the next forward is, "cond_uncond"
                for one batch of both with the uncond rows first; needed only when a single branch
                is steered and you make no use of `transformer.cache_context`.

        Raises:
            RuntimeError: The handle follows a pipeline, or has been removed.
            TypeError: `step` or `num_steps` is not an integer.
            ValueError: `step` is not one of the `num_steps` steps, or there is no such branch.
        """
        if self._listener is not None:
            raise RuntimeError(
                "set_step is for a bare transformer. This handle follows a pipeline, whose "
                "scheduler says which step it is."
            )
        if not self._attached:
            raise RuntimeError(f"This handle has been removed; call stas.{self._verb} again.")
        for number in (step, num_steps):
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise TypeError(
                    f"step and num_steps must be integers, but got {number!r}. A tensor would make "
                    "the host wait for its device."
                )
        if branch not in (None, *get_args(Branch)):
            raise ValueError(
                f"branch must be one of {', '.join(get_args(Branch))}, or None, but got {branch!r}."
            )
        if not 0 <= step < num_steps:
            raise ValueError(
                f"step must be between 0 and num_steps - 1, but got step={step}, "
                f"num_steps={num_steps}."
            )
        self._clock.set(int(step), int(num_steps))
        for part in self._parts.values():
            part.branch = branch

    def remove(self) -> None:
        """Undo everything; the model computes what it computed before. Twice is harmless."""
        if not self._attached:
            return
        if self._listener is not None:
            self._listener.detach()
        for part in self._parts.values():
            part.detach()
        self._attached = False

    def __enter__(self: HandleT) -> HandleT:
        if not self._attached:
            raise RuntimeError(f"This handle has been removed; call stas.{self._verb} again.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class SteeringHandle(Handle):
    """What undoes a `steer`; also a context manager that does so at its end.

    Made by `steer` and not by hand.
    """

    def __init__(
        self,
        config: STASConfig,
        steerings: Mapping[str, TransformerSteering],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        super().__init__(steerings, clock, listener)
        self.config = config
        self._steerings = dict(steerings)
        for steering in steerings.values():
            steering.handle = self

    @property
    def dims(self) -> dict[str, tuple[int, ...] | None]:
        """The steered dimensions of each transformer; None until they are detected."""
        return {name: steering.dims for name, steering in self._steerings.items()}

    @property
    def origins(self) -> dict[str, DimsOrigin]:
        """Whether the dimensions of each transformer were given, of a profile, or detected."""
        return {name: steering.origin for name, steering in self._steerings.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where the dimensions of each transformer come from, in words."""
        return {name: steering.source for name, steering in self._steerings.items()}

    @property
    def steered_forwards(self) -> dict[str, int]:
        """How many forwards of each transformer were steered so far."""
        return {name: steering.steered_forwards for name, steering in self._steerings.items()}

    def summary(self) -> str:
        """What is steered, where, when, and where the dimensions come from, in a few lines."""
        config = self.config
        strength = f"scale {config.scale:g}"
        if config.op == "max":
            strength += f", reference {config.reference}"
        lines = [
            f"op {config.op} ({strength}) at {' + '.join(config.regions)} tokens "
            f"(boundary {config.boundary:g}), {self._steps_text()}, "
            f"branches {' + '.join(config.branches)}"
        ]
        for name, steering in self._steerings.items():
            lines.append(
                f"{name} ({steering.spec.transformer}): {_blocks_text(steering)}, "
                f"dims {_dims_text(steering.dims)}: {steering.source}"
            )
        if not self._attached:
            lines.append("removed: nothing is steered any more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        parts = [f"op {self.config.op}, scale {self.config.scale:g}, {self._steps_text()}"]
        for name, steering in self._steerings.items():
            parts.append(f"{name}: {_blocks_text(steering)}, dims {_dims_text(steering.dims)}")
        return f"SteeringHandle({'; '.join(parts)}{'' if self._attached else '; removed'})"

    def _steps_text(self) -> str:
        window = f"steps {self.config.start:g} <= i/N < {self.config.stop:g}"
        if self._listener is None and self._clock.num_steps is None:
            return f"every forward until set_step says where the loop is, then {window}"
        return window


def _blocks_text(steering: TransformerSteering) -> str:
    of = len(steering.spec.blocks(steering.transformer))
    return f"{len(steering.blocks)} of {of} blocks"


def _dims_text(dims: tuple[int, ...] | None) -> str:
    if dims is None:
        return "not known yet"
    return ", ".join(map(str, dims)) if dims else "none"


def steer(target: Any, config: STASConfig | None = None, **overrides: Any) -> SteeringHandle:
    """Steer the massive activations of a video pipeline or transformer (STAS, arXiv 2603.17825).

    Each supported transformer of a pipeline is steered, both experts of Wan2.2 A14B in one
    schedule. No weight changes and no extra forward pass is made; the step and the branch of
    classifier-free guidance are followed without a device sync. Everything that can fail is
    checked before the first hook goes on.

    Without `dims` and a profile, the first forward in the window is read and its step is not
    steered; the dimensions that it shows are kept for the life of the handle. None is ever
    guessed: when no dimension is massive, a warning says so and nothing is steered.

    Args:
        target: A diffusers pipeline, or a bare transformer for people with their own loop: that
            has no schedule, so every forward is steered until `SteeringHandle.set_step` says
            where the loop is.
        config: How to steer; the defaults of STASConfig when left out.
        **overrides: Fields of STASConfig that replace those of `config`.

    Returns:
        A handle. Use it as a context manager or call `remove`: after that the output is
        bit-identical to that of a pipeline that was never steered.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        RuntimeError: The transformer is steered already.
        ValueError: A config field is out of range, for the field or for this model.
        TypeError: `target` or a field has the wrong type.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> with steer(transformer, dims=(3,), blocks="all") as handle:
        ...     handle.dims
        {'transformer': (3,)}
    """
    config = _resolve_config(config, overrides)
    transformers = _find_transformers(target, "steer")
    clock, listener = _follow(target, transformers, config.window)
    steerings = {
        name: _plan(target, name, transformer, spec, config, clock, listener)
        for name, (transformer, spec) in transformers.items()
    }
    handle = SteeringHandle(config, steerings, clock, listener)
    handle._attach()
    return handle


def find_handle(target: Any) -> SteeringHandle | None:
    """The handle that steers a pipeline or transformer, for when yours is lost.

    Args:
        target: What `steer` takes. It need not be what was given to `steer`: a transformer leads
            to the handle of its pipeline, and a pipeline to that of one of its transformers.

    Returns:
        The handle, the first one when the transformers of a pipeline have one each; None when
        nothing is steered.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        TypeError: `target` is a class.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> _ = steer(transformer, dims=(3,))
        >>> find_handle(transformer).remove()
        >>> find_handle(transformer) is None
        True
    """
    for transformer, spec in _find_transformers(target, "steer").values():
        for block in spec.blocks(transformer):
            if is_hooked(block, TransformerSteering.hook_name):
                registry: Any = block._diffusers_hook
                handle: SteeringHandle = registry.hooks[TransformerSteering.hook_name].owner.handle
                return handle
    return None


class RecordingHandle(Handle):
    """What ends a `record`, and what was recorded; also a context manager.

    Made by `record` and not by hand.
    """

    def __init__(
        self,
        recordings: Mapping[str, TransformerRecording],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        super().__init__(recordings, clock, listener)
        self._recordings = dict(recordings)

    @property
    def stats(self) -> ActivationStats:
        """What was recorded so far, after `remove` too.

        Raises:
            ValueError: Several transformers were recorded: see `stats_of`.
        """
        if len(self._recordings) > 1:
            raise ValueError(
                f"Several transformers were recorded: {', '.join(self._recordings)}. Their "
                "statistics are in stats_of, by name."
            )
        return next(iter(self.stats_of.values()))

    @property
    def stats_of(self) -> dict[str, ActivationStats]:
        """What was recorded so far, for each transformer by its name in the pipeline."""
        return {name: recording.stats for name, recording in self._recordings.items()}


def record(
    target: Any,
    *,
    blocks: Blocks = "all",
    boundary: float = 0.08,
    map_blocks: Blocks | None = None,
    map_dims: Sequence[int] = (),
    metadata: Mapping[str, str] | None = None,
) -> RecordingHandle:
    """Record statistics of a video transformer's hidden states while it samples.

    Reads what the blocks return, after steering if that is on, and changes no bit of it. The
    sums are taken on the device and come to the host in the background. A block that a cache
    skips is not recorded in that step. A compiled model breaks its graph at each recorded block.

    Args:
        target: A diffusers pipeline, or a bare transformer, whose steps `set_step` tells.
        blocks: "all", "middle", or block numbers, as in `STASConfig`.
        boundary: r, the head and tail share of each latent frame that counts as boundary, 0 to
            0.5.
        map_blocks: Recorded blocks of which mean |h| is also kept over the tokens: for all
            dimensions over at most 256 groups of neighbouring tokens, and for `map_dims` over
            the whole grid. None keeps no map.
        map_dims: Dimensions of the maps over the whole grid.
        metadata: Text that travels with the statistics; model, transformer and versions are
            added.

    Returns:
        A handle with the statistics. Use it as a context manager or call `remove`.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        RuntimeError: The transformer is recorded already.
        ValueError: A number is out of range for this model.
        TypeError: An argument has the wrong type.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> with record(transformer) as recording:
        ...     _ = transformer(torch.ones(1, 4, 2, 4, 4), torch.ones(1), torch.ones(1, 3, 16))
        >>> recording.stats
        ActivationStats(2 blocks, width 24, 1 steps, 1 samples)
    """
    # The same fields as for steering, so the same checks.
    chosen = STASConfig(blocks=blocks, boundary=boundary)
    mapped = STASConfig(blocks=map_blocks) if map_blocks is not None else None
    dims = STASConfig(dims=tuple(map_dims)).dims if map_dims else ()
    transformers = _find_transformers(target, "record")
    clock, listener = _follow(target, transformers, Window(0.0, 1.0))
    recordings = {}
    for name, (transformer, spec) in transformers.items():
        all_blocks = spec.blocks(transformer)
        _refuse_a_second(name, spec, all_blocks, TransformerRecording)
        width = spec.feature_width(config_of(transformer))
        _check_dims(dims or (), width, name, spec)
        numbers = _block_numbers(chosen, len(all_blocks), name)
        map_numbers = _block_numbers(mapped, len(all_blocks), name) if mapped else []
        if missing := sorted(set(map_numbers) - set(numbers)):
            raise ValueError(
                f"map_blocks must be among the recorded blocks, but {missing} are not."
            )
        stats = ActivationStats(
            blocks=numbers,
            width=width,
            boundary=chosen.boundary,
            map_blocks=map_numbers,
            map_dims=dims or (),
            metadata={
                "model": str(_loaded_from(target, transformer) or ""),
                "transformer": spec.transformer,
                "config": _fingerprint(config_of(transformer)),
                "torch": torch.__version__,
                "diffusers": version("diffusers"),
                "dtype": str(_dtype_of(transformer)),
            }
            | dict(metadata or {}),
        )
        recordings[name] = TransformerRecording(
            name, transformer, spec, numbers, clock, listener, stats
        )
    handle = RecordingHandle(recordings, clock, listener)
    handle._attach()
    return handle


def _fingerprint(config: Mapping[str, Any]) -> str:
    """A short hash of a transformer's architecture, the same wherever it was loaded from."""
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    return sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _follow(
    target: Any, transformers: Mapping[str, tuple[nn.Module, ModelSpec]], window: Window
) -> tuple[StepClock, LoopListener | None]:
    """A clock, and for a pipeline the listener that moves it."""
    if isinstance(target, nn.Module):
        return StepClock(window), None
    if not all(
        callable(getattr(getattr(target, "scheduler", None), method, None))
        for method in ("set_timesteps", "step")
    ):
        raise ValueError(
            f"{type(target).__name__} has no scheduler with set_timesteps and step, so the "
            "denoising step can't be followed. Set pipe.scheduler, or take the bare transformer: "
            "stas.steer(pipe.transformer) and handle.set_step(i, n) in your loop."
        )
    clock = StepClock(window, waits=True)
    return clock, LoopListener(target, clock, transformers)


def _loaded_from(target: Any, transformer: nn.Module) -> str | None:
    """The hub id or folder of the pipeline, else of the transformer."""
    of_pipeline = None if isinstance(target, nn.Module) else getattr(target, "name_or_path", None)
    name = of_pipeline or getattr(config_of(transformer), "_name_or_path", None)
    return str(name) if name else None


def _dtype_of(transformer: nn.Module) -> torch.dtype | None:
    """diffusers' models say their dtype, others have that of their first parameter."""
    first = next((parameter.dtype for parameter in transformer.parameters()), None)
    return getattr(transformer, "dtype", first)


def _refuse_a_second(
    name: str, spec: ModelSpec, blocks: list[nn.Module], kind: type[TransformerHooks]
) -> None:
    if any(is_hooked(block, kind.hook_name) for block in blocks):
        verb = kind.verb
        found = " or stas.find_handle(...).remove()," if verb == "steer" else ""
        raise RuntimeError(
            f"{name} ({spec.transformer}) is {verb}ed already. Call remove() on the handle of the "
            f"first stas.{verb},{found} then {verb} again."
        )


def _check_dims(dims: Sequence[int], width: int, name: str, spec: ModelSpec) -> None:
    if dims and max(dims) >= width:
        raise ValueError(
            f"dims must be below {width}, the feature width of {name} ({spec.transformer}), but "
            f"got {max(dims)}."
        )


def _resolve_config(config: STASConfig | None, overrides: Mapping[str, Any]) -> STASConfig:
    if config is not None and not isinstance(config, STASConfig):
        raise TypeError(f"config must be a stas.STASConfig, but got {type(config).__name__}.")
    base = config or STASConfig()
    if unknown := sorted(set(overrides) - set(base.to_dict())):
        raise TypeError(
            f"steer has no option {', '.join(map(repr, unknown))}. Options: "
            f"{', '.join(base.to_dict())}."
        )
    return replace(base, **overrides)


def _find_transformers(
    target: Any, verb: Literal["steer", "record"]
) -> dict[str, tuple[nn.Module, ModelSpec]]:
    """The known transformers of a target by component name, compiled ones unwrapped."""
    if isinstance(target, type):
        raise TypeError(
            f"Expected a pipeline or a transformer, but got the class {target.__name__} itself: "
            f"pass an instance, as in pipe = {target.__name__}.from_pretrained(...)."
        )
    if isinstance(target, nn.Module):
        components: Mapping[str, Any] = {"transformer": target}
    else:
        components = getattr(target, "components", None) or {}
        if not isinstance(components, Mapping):
            components = {}
    modules = {
        name: getattr(component, "_orig_mod", component)
        for name, component in components.items()
        if isinstance(component, nn.Module)
    }
    found: dict[str, tuple[nn.Module, ModelSpec]] = {}
    for name, module in modules.items():
        spec = find_spec(module)
        # One transformer may sit in both expert slots.
        if spec is not None and all(module is not other for other, _ in found.values()):
            found[name] = module, spec
    for module, spec in found.values():
        for refused in (verb, type(target).__name__):
            if refused in spec.refusals:
                what = type(target if refused != verb else module).__name__
                raise UnsupportedModelError(f"stas can't {verb} {what}: {spec.refusals[refused]}")
    if not found:
        seen = ", ".join(f"{name}: {type(module).__name__}" for name, module in modules.items())
        raise UnsupportedModelError(
            f"{type(target).__name__} has no transformer that stas can steer"
            + (f" (found {seen}). " if seen else ". ")
            + supported_text()
        )
    return found


def _plan(
    target: Any,
    name: str,
    transformer: nn.Module,
    spec: ModelSpec,
    config: STASConfig,
    clock: StepClock,
    listener: LoopListener | None,
) -> TransformerSteering:
    """Check everything about one transformer and prepare its steering, attaching nothing."""
    blocks = spec.blocks(transformer)
    _refuse_a_second(name, spec, blocks, TransformerSteering)
    model_config = config_of(transformer)
    block_numbers = _block_numbers(config, len(blocks), name)
    dims, source = config.dims, "given"
    origin: DimsOrigin = "given"
    if dims is None:
        profile = find_profile(_loaded_from(target, transformer), spec.transformer, model_config)
        if profile is not None:
            dims, origin, source = profile.dims, "profile", profile.describe()
        else:
            origin, source = "detected", "to be detected on the first forward"
    _check_dims(dims or (), spec.feature_width(model_config), name, spec)
    return TransformerSteering(
        name=name,
        transformer=transformer,
        spec=spec,
        config=config,
        block_numbers=block_numbers,
        dims=dims,
        origin=origin,
        source=source,
        clock=clock,
        listener=listener,
    )


def _block_numbers(config: STASConfig, num_blocks: int, name: str) -> list[int]:
    if config.blocks == "all":
        return list(range(num_blocks))
    if config.blocks == "middle":
        return [num_blocks // 2]
    for number in config.blocks:
        if not -num_blocks <= int(number) < num_blocks:
            raise ValueError(
                f"{name} has {num_blocks} blocks, numbered 0 to {num_blocks - 1} (or "
                f"{-num_blocks} to -1 from the end), but got block {number}."
            )
    return sorted({int(number) % num_blocks for number in config.blocks})
