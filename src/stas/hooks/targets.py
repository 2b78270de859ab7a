"""What is steered or recorded: the transformers of a pipeline, and what is checked of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from stas.checks import StasWarning, one_of
from stas.hooks.loop import Loop, OwnLoop, PipelineLoop
from stas.hooks.registry import is_hooked
from stas.hooks.transformer import TransformerHooks, config_of
from stas.method.config import BRANCHES, Branch, STASConfig
from stas.method.shards import TokenGroup
from stas.method.window import StepClock, Window
from stas.models.registry import find_spec, supported_text
from stas.models.spec import ModelSpec, UnsupportedModelError

COMPONENTS = ("transformer", "transformer_2")
# diffusers names a hub model that lies in the cache by its folder there.
_HUB_SNAPSHOT = re.compile(r"models--([^/\\\\]+)--([^/\\\\]+)[/\\\\]snapshots")


def pipeline_of(target: Any) -> Any:
    """The pipeline of what `stas.load_pipeline` returned; everything else as it is."""
    return target if isinstance(target, nn.Module) else getattr(target, "pipeline", target)


def token_group(group: Any) -> TokenGroup | None:
    """The processes that a user says share the tokens; None for none, or for one alone."""
    if group is None:
        return None
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(
            "group must be a torch.distributed.ProcessGroup, as torch.distributed.new_group "
            f"returns, but got {type(group).__name__}."
        )
    found = TokenGroup.over(group)
    if found.rank < 0:
        raise ValueError("This process is not of the group that was given.")
    return found if found.size > 1 else None


def follow(
    target: Any,
    transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
    window: Window,
    branch: Branch | None = None,
) -> Loop:
    """The loop of a pipeline, or one that its author will tell about.

    Args:
        target: The pipeline or transformer.
        transformers: What is attached to, with their rows.
        window: When it is acted.
        branch: That of all forwards of this process, where each has one.
    """
    if branch is not None:
        one_of("branch", branch, BRANCHES)
    if isinstance(target, nn.Module):
        return OwnLoop(StepClock(window), branch)
    if not all(
        callable(getattr(getattr(target, "scheduler", None), method, None))
        for method in ("set_timesteps", "step")
    ):
        raise ValueError(
            f"{type(target).__name__} has no scheduler with set_timesteps and step, so the "
            "denoising step can't be followed. Set pipe.scheduler, or take the bare transformer: "
            "stas.steer(pipe.transformer) and handle.set_step(i, n) in your loop."
        )
    return PipelineLoop(StepClock(window, waits=True), target, transformers, branch)


def source_of(transformer: nn.Module) -> str | None:
    """Where a transformer's weights came from: a hub id, or the folder of its model.

    It is what the transformer itself says: a pipeline may hold one from elsewhere.

    Warns:
        StasWarning: That is a folder which is not there, so that no profile is found in it.
    """
    path = config_of(transformer).get("_name_or_path")
    if not path:
        return None
    # A folder of a model holds its transformer in one, which no hub id names.
    if not Path(path).exists() and Path(path).name in COMPONENTS:
        warnings.warn(
            f"The transformer says that it was loaded from {str(path)!r}, and there is no such "
            "folder here: was the working folder changed since? A profile that lies in it is not "
            "found. Load the pipeline by an absolute path, as stas.load_pipeline does.",
            StasWarning,
            stacklevel=2,
        )
    if in_cache := _HUB_SNAPSHOT.search(str(path)):
        return "/".join(in_cache.groups())
    folder = Path(path).parent
    return str(folder if (folder / "model_index.json").is_file() else path)


def dtype_of(transformer: nn.Module) -> torch.dtype | None:
    """diffusers' models say their dtype, others have that of their first parameter."""
    first = next((parameter.dtype for parameter in transformer.parameters()), None)
    return getattr(transformer, "dtype", first)


def refuse_a_second(
    name: str, spec: ModelSpec, blocks: list[nn.Module], kind: type[TransformerHooks[Any]]
) -> None:
    if any(is_hooked(block, kind.hook_name) for block in blocks):
        verb = kind.verb
        found = " or stas.find_handle(...).remove()," if verb == "steer" else ""
        raise RuntimeError(
            f"{name} ({spec.transformer}) is {verb}ed already. Call remove() on the handle of the "
            f"first stas.{verb},{found} then {verb} again."
        )


def check_dims(dims: Sequence[int], width: int, name: str, spec: ModelSpec) -> None:
    if dims and max(dims) >= width:
        raise ValueError(
            f"dims must be below {width}, the feature width of {name} ({spec.transformer}), but "
            f"got {max(dims)}."
        )


def find_transformers(
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


def block_numbers(config: STASConfig, num_blocks: int, name: str) -> list[int]:
    if num_blocks == 0:
        raise ValueError(
            f"{name} has no blocks, so there is nothing to steer or record: its config.json must "
            "say 1 or more."
        )
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
