"""steer: one call that attaches the method to a pipeline or a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from types import TracebackType
from typing import Any, get_args

from torch import nn

from stas.config import STASConfig
from stas.hooks import Branch, is_hooked
from stas.intervene import DimsOrigin, TransformerSteering
from stas.loop import LoopListener
from stas.models import ModelSpec, UnsupportedModelError, find_spec, supported_text
from stas.profiles import find_profile
from stas.schedule import StepClock


class SteeringHandle:
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
        self.config = config
        self._steerings = dict(steerings)
        self._clock = clock
        self._listener = listener
        self._attached = False

    def _attach(self) -> None:
        try:
            for steering in self._steerings.values():
                steering.attach()
            if self._listener is not None:
                self._listener.attach()
        except BaseException:
            self._attached = True
            self.remove()
            raise
        self._attached = True

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
            RuntimeError: A pipeline is steered, or the handle has been removed.
            TypeError: `step` or `num_steps` is not an integer.
            ValueError: `step` is not one of the `num_steps` steps, or there is no such branch.
        """
        if self._listener is not None:
            raise RuntimeError(
                "set_step is for a bare transformer. This handle steers a pipeline, whose "
                "scheduler says which step it is."
            )
        if not self._attached:
            raise RuntimeError("This handle has been removed; call stas.steer again.")
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
        for steering in self._steerings.values():
            steering.branch = branch

    def summary(self) -> str:
        """What is steered, where, when, and where the dimensions come from, in a few lines."""
        config = self.config
        strength = f"scale {config.scale:g}"
        if config.op == "max":
            strength += f", reference {config.reference}"
        lines = [
            f"op {config.op} ({strength}) at {' + '.join(config.regions)} tokens "
            f"(boundary {config.boundary:g}), steps {config.start:g} <= i/N < {config.stop:g}, "
            f"branches {' + '.join(config.branches)}"
        ]
        for name, steering in self._steerings.items():
            of = len(steering.spec.blocks(steering.transformer))
            lines.append(
                f"{name} ({steering.spec.transformer}): {len(steering.blocks)} of {of} blocks, "
                f"dims {_dims_text(steering.dims)}: {steering.source}"
            )
        if not self._attached:
            lines.append("removed: nothing is steered any more")
        return "\n".join(lines)

    def remove(self) -> None:
        """Undo everything; the model computes what it computed before. Twice is harmless."""
        if not self._attached:
            return
        if self._listener is not None:
            self._listener.detach()
        for steering in self._steerings.values():
            steering.detach()
        self._attached = False

    def __enter__(self) -> SteeringHandle:
        if not self._attached:
            raise RuntimeError("This handle has been removed; call stas.steer again.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


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
    is_pipeline = not isinstance(target, nn.Module)
    transformers = _find_transformers(target)
    if is_pipeline and not all(
        callable(getattr(getattr(target, "scheduler", None), method, None))
        for method in ("set_timesteps", "step")
    ):
        raise ValueError(
            f"{type(target).__name__} has no scheduler with set_timesteps and step, so the "
            "denoising step can't be followed. Set pipe.scheduler, or steer the bare transformer: "
            "stas.steer(pipe.transformer) and handle.set_step(i, n) in your loop."
        )
    clock = StepClock(config.window, waits=is_pipeline)
    modules = {name: transformer for name, (transformer, _) in transformers.items()}
    listener = LoopListener(target, clock, modules) if is_pipeline else None
    pipeline_name = getattr(target, "name_or_path", None) if is_pipeline else None
    steerings = {
        name: _plan(name, transformer, spec, config, clock, listener, pipeline_name)
        for name, (transformer, spec) in transformers.items()
    }
    handle = SteeringHandle(config, steerings, clock, listener)
    handle._attach()
    return handle


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


def _find_transformers(target: Any) -> dict[str, tuple[nn.Module, ModelSpec]]:
    """The steerable transformers of a target by component name, compiled ones unwrapped."""
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
    if not found:
        seen = ", ".join(f"{name}: {type(module).__name__}" for name, module in modules.items())
        raise UnsupportedModelError(
            f"{type(target).__name__} has no transformer that stas can steer"
            + (f" (found {seen}). " if seen else ". ")
            + supported_text()
        )
    return found


def _plan(
    name: str,
    transformer: nn.Module,
    spec: ModelSpec,
    config: STASConfig,
    clock: StepClock,
    listener: LoopListener | None,
    pipeline_name: str | None,
) -> TransformerSteering:
    """Check everything about one transformer and prepare its steering, attaching nothing."""
    blocks = spec.blocks(transformer)
    if any(is_hooked(block, TransformerSteering.hook_name) for block in blocks):
        raise RuntimeError(
            f"{name} ({spec.transformer}) is steered already. Call remove() on the handle of the "
            "first stas.steer, then steer again."
        )
    model_config: Mapping[str, Any] = transformer.config  # type: ignore[assignment]
    block_numbers = _block_numbers(config, len(blocks), name)
    width = spec.feature_width(model_config)
    dims, source = config.dims, "given"
    origin: DimsOrigin = "given"
    if dims is None:
        loaded_from = pipeline_name or getattr(model_config, "_name_or_path", None)
        profile = find_profile(loaded_from, spec.transformer, model_config)
        if profile is not None:
            dims, origin, source = profile.dims, "profile", profile.describe()
        else:
            origin, source = "detected", "to be detected on the first forward"
    if dims is not None and max(dims) >= width:
        raise ValueError(
            f"dims must be below {width}, the feature width of {name} ({spec.transformer}), but "
            f"got {max(dims)}."
        )
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
