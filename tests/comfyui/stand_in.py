"""As much of ComfyUI as the attachment meets, for tests where it isn't: a model whose blocks can be
replaced, a patcher with wrappers, and a sampler. What the real one does is in test_headless.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class Block(nn.Module):
    """Mixes the tokens and adds a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D)."""
        mixed = hidden_states + hidden_states.mean(dim=1, keepdim=True)
        return hidden_states + 0.1 * self.linear(mixed).tanh() + self.linear.bias


class WanModel(nn.Module):
    """Runs its blocks as ComfyUI's Wan does."""

    def __init__(self, width: int = 24, layers: int = 4) -> None:
        super().__init__()
        self.patch_size = (1, 2, 2)
        self.dim, self.num_heads, self.num_layers, self.ref_conv = width, 2, layers, None
        self.patch = nn.Conv3d(4, width, self.patch_size, self.patch_size)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 16)
        self.ignores_patches = False

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        """(B, 4, F, H, W) of even height and width."""
        hidden = self.patch(x)
        grid = hidden.shape[2:]
        hidden = hidden.flatten(2).transpose(1, 2)
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        for index, block in enumerate(self.blocks):
            if ("double_block", index) in replace and not self.ignores_patches:
                args = {"img": hidden, "transformer_options": transformer_options}
                extra = {"original_block": lambda args, block=block: {"img": block(args["img"])}}
                hidden = replace["double_block", index](args, extra)["img"]
            else:
                hidden = block(hidden)
        out = self.head(hidden).unflatten(1, grid).unflatten(-1, (2, 2, 4))
        return out.permute(0, 6, 1, 2, 4, 3, 5).flatten(3, 4).flatten(4, 5)


WanModel.__module__ = "comfy.ldm.wan.model"


class Flow:
    """Flow matching without a shift."""

    sigma_max = 1.0

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level there."""
        return 1.0 - percent


class HunyuanVideo(nn.Module):
    """Two stacks; the second has text before the video, and blocks return what they were given."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch_size, self.hidden_size = [1, 2, 2], width
        self.patch = nn.Conv3d(4, width, (1, 2, 2), (1, 2, 2))
        self.double_blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.single_blocks = nn.ModuleList(Block(width) for _ in range(2))

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        """(B, 4, F, H, W)."""
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        hidden = self.patch(x).flatten(2).transpose(1, 2)
        text = torch.ones(x.shape[0], 3, hidden.shape[2])
        for key, stack in (("double", self.double_blocks), ("single", self.single_blocks)):
            for index, block in enumerate(stack):

                def run(args, block=block):
                    return {"img": args["img"].copy_(block(args["img"])), "txt": text}

                patch = replace.get((f"{key}_block", index))
                args = {"img": hidden}
                hidden = (patch(args, {"original_block": run}) if patch else run(args))["img"]
            if key == "double":
                hidden = torch.cat([text, hidden], dim=1)
        return 0.1 * x


class Kandinsky5(nn.Module):
    """What `original_block` does under a patch fails, as it does in ComfyUI."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch_size, self.model_dim = (1, 2, 2), width
        self.patch = nn.Conv3d(4, width, (1, 2, 2), (1, 2, 2))
        self.visual_transformer_blocks = nn.ModuleList(_VisualBlock(width) for _ in range(3))

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        """(B, 4, F, H, W)."""
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        hidden = self.patch(x).flatten(2).transpose(1, 2)
        for index, block in enumerate(self.visual_transformer_blocks):

            def run(args, block=block):
                return block(x=args["x"], **{k: v for k, v in args.items() if k != "x"})

            args = {"context": None, "time_embed": None, "freqs": None, "transformer_options": {}}
            if patch := replace.get(("double_block", index)):
                hidden = patch({"x": hidden} | args, {"original_block": run})["x"]
            else:
                hidden = block(hidden, **args)
        return 0.1 * x


class _VisualBlock(Block):
    def forward(self, visual_embed, context, time_embed, freqs, transformer_options):
        return super().forward(visual_embed)


class LTXAVModel(nn.Module):
    """Video and sound in one row of latents, two streams in a block, guides at the video's end."""

    guides, dropped = 1, 5  # latent frames, and how many of their tokens are left out

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patchifier = SimpleNamespace(patch_size=(1, 1, 1))
        self.inner_dim = width
        self.patch = nn.Linear(4, width)
        self.transformer_blocks = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        """(B, 1, numbers), of (B, 4, 3, 4, 4) and of sound."""
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        video = x[:, 0, : 4 * 48].unflatten(1, (4, 48)).transpose(1, 2)
        hidden = self.patch(video)[:, : 48 - self.dropped]
        sound = x[:, 0, 4 * 48 :, None].expand(-1, -1, 24).clone()
        for index, block in enumerate(self.transformer_blocks):

            def run(args, block=block):
                return {"img": (block(args["img"][0]), args["img"][1] + 1)}

            args = {"img": (hidden, sound)}
            patch = replace.get(("double_block", index))
            hidden, sound = (patch(args, {"original_block": run}) if patch else run(args))["img"]
        return 0.1 * x


class GeneralDIT(nn.Module):
    """Blocks in a dictionary, which nobody can replace, and tokens as (T, H, W, B, D)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch_spatial, self.patch_temporal, self.model_channels = 2, 1, width
        self.patch = nn.Conv3d(4, width, (1, 2, 2), (1, 2, 2))
        self.blocks = nn.ModuleDict({f"block{index}": Block(width) for index in range(3)})
        self.head = nn.Linear(width, 16)

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        """(B, 4, F, H, W)."""
        hidden = self.patch(x).permute(2, 3, 4, 0, 1)
        for block in self.blocks.values():
            hidden = block(hidden)
        out = self.head(hidden).unflatten(-1, (2, 2, 4))
        return out.permute(3, 6, 0, 1, 4, 2, 5).flatten(3, 4).flatten(4, 5)


for _cls, _module in (
    (GeneralDIT, "cosmos.model"),
    (HunyuanVideo, "hunyuan_video.model"),
    (Kandinsky5, "kandinsky5.model"),
    (LTXAVModel, "lightricks.av_model"),
):
    _cls.__module__ = f"comfy.ldm.{_module}"


def call(
    wrappers: list[Callable[..., Any]],
    owner: Any,
    original: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run wrappers around a function, the first outermost."""
    if not wrappers:
        return original(*args, **kwargs)

    class Executor:
        class_obj = owner

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return call(wrappers[1:], owner, original, *args, **kwargs)

    return wrappers[0](Executor(), *args, **kwargs)


class CFGGuider:
    """Guides by two branches, in one batch with the uncond rows first, as ComfyUI does."""

    def __init__(self, patcher: ModelPatcher, cfg: float) -> None:
        self.patcher, self.cfg, self.inner_model = patcher, cfg, patcher.model

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, options: dict[str, Any], seed: Any
    ) -> torch.Tensor:
        """Evaluate the model once."""
        names = [1, 0] if self.cfg != 1 else [0]
        given = options["transformer_options"] | {"cond_or_uncond": names}

        def apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **conds):
            return self.patcher.model.diffusion_model(x, transformer_options)

        batch = torch.cat([x + 0.1 * name for name in names])
        wrappers = self.patcher.all_wrappers("apply_model")
        out = call(
            wrappers, self.patcher.model, apply_model,
            batch, timestep, None, None, None, given, **self.patcher.conds,
        )  # fmt: skip
        if len(names) == 1:
            return out
        uncond, cond = out.chunk(2)
        return uncond + self.cfg * (cond - uncond)


class ModelPatcher:
    """A model with wrappers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.wrappers: dict[str, dict[str, list[Callable[..., Any]]]] = {}
        self.callbacks: dict[tuple[str, str], Callable[..., Any]] = {}
        self.options: dict[str, Any] = {}
        self.conds: dict[str, Any] = {}
        self.shape: tuple[int, ...] = (4, 3, 8, 8)

    def clone(self) -> ModelPatcher:
        """The same model with wrappers of its own."""
        clone = ModelPatcher(self.model)
        clone.wrappers = {
            kind: {key: list(each) for key, each in keys.items()}
            for kind, keys in self.wrappers.items()
        }
        clone.callbacks = dict(self.callbacks)
        clone.options, clone.conds, clone.shape = dict(self.options), self.conds, self.shape
        return clone

    def get_model_object(self, name: str) -> Any:
        """A part of the model."""
        return getattr(self.model, name)

    def get_wrappers(self, kind: str, key: str) -> list[Callable[..., Any]]:
        """Those with a key."""
        return self.wrappers.get(kind, {}).get(key, [])

    def all_wrappers(self, kind: str) -> list[Callable[..., Any]]:
        """Those with any."""
        return [each for of_key in self.wrappers.get(kind, {}).values() for each in of_key]

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        """Take them off."""
        self.wrappers.get(kind, {}).pop(key, None)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Callable[..., Any]) -> None:
        """Put one on."""
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_callbacks_with_key(self, kind: str, key: str) -> None:
        """Take them off."""
        self.callbacks.pop((kind, key), None)

    def add_callback_with_key(self, kind: str, key: str, callback: Callable[..., Any]) -> None:
        """Put one on."""
        self.callbacks[kind, key] = callback

    def pre_run(self) -> None:
        """A sampling is about to use it."""
        for callback in self.callbacks.values():
            callback(self)


def make(transformer: type[nn.Module] = WanModel) -> ModelPatcher:
    """A model, random and always the same."""
    torch.manual_seed(0)
    latent_format = SimpleNamespace(latent_dimensions=3, latent_channels=4)
    return ModelPatcher(
        SimpleNamespace(
            diffusion_model=transformer(), model_sampling=Flow(), latent_format=latent_format
        )
    )


def sample(
    patcher: ModelPatcher,
    sigmas: list[float] | None = None,
    *,
    steps: int = 5,
    cfg: float = 1.0,
    batch: int = 1,
    callback: Callable[[int], None] = lambda step: None,
    guider: type[CFGGuider] = CFGGuider,
) -> torch.Tensor:
    """Euler's sampler over a schedule, of `steps` equal steps when None."""
    made = guider(patcher, cfg)
    levels = sigmas or [1 - step / steps for step in range(steps + 1)]

    def outer_sample(x: torch.Tensor) -> torch.Tensor:
        patcher.pre_run()
        options = {"transformer_options": patcher.options | {"sample_sigmas": torch.tensor(levels)}}
        for step in range(len(levels) - 1):
            sigma = torch.full((batch,), levels[step])
            wrappers = patcher.all_wrappers("predict_noise")
            velocity = call(wrappers, made, made.predict_noise, x, sigma, options, None)
            x = x + (levels[step + 1] - levels[step]) * velocity
            callback(step)
        return x

    noise = torch.randn(batch, *patcher.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return call(patcher.all_wrappers("outer_sample"), made, outer_sample, noise)
