"""What must be known about each of ComfyUI's transformers: one row of data per class.

ComfyUI lets a block of most classes be replaced under a key, `patches_replace["dit"][key, index]`;
the others are reached by a hook for the time of a forward. A row says which keys a class has, and
where the video's tokens lie in what its blocks return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from stas.method.tokens import TokenGrid

Size = tuple[int, int, int]  # latent frames, rows, columns
Layout = Literal["BND", "BTHWD", "THWBD"]  # of what blocks return; T, H and W make N


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One of a transformer's lists of blocks.

    Args:
        blocks: The attribute with the blocks, a list or a dictionary.
        key: What ComfyUI calls them in `patches_replace`; None where it lets none be replaced.
        text: Whether tokens of text, and of anything else, come first in what these blocks return.
    """

    blocks: str
    key: str | None = "double_block"
    text: bool = False


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One forward as ComfyUI's `apply_model` sees it.

    Args:
        transformer: The transformer.
        latents: (B, C, F, H, W).
        conds: The conditions by name.
        start: At which latent frame of the whole latent these begin: a context window's.
        anchored: Whether a context window has one latent frame of before it at its head.
    """

    transformer: Any
    latents: torch.Size
    conds: Mapping[str, Any]
    start: int = 0
    anchored: bool = False

    def tokens_of(self, latents: torch.Tensor, patch: Size) -> int:
        """How many tokens latents (..., F, H, W) of a condition make; padded like the video's."""
        size = latents.shape[-3:]
        return math.prod(-(-count // by) for count, by in zip(size, patch, strict=True))


def _no_tokens(forward: Forward, patch: Size) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class ComfyModel:
    """A row: where in one class's forward the video's tokens are.

    Args:
        transformer: Name of the class.
        stacks: Its lists of blocks, in forward order.
        width: The attributes whose product is D, the feature width.
        patch: The attribute, dots allowed, with the patch size; one integer is that of rows and
            columns.
        patch_frames: Where that is one integer, the attribute with the patch's latent frames, None
            for one; empty where there is none.
        output: The key of the hidden states in what a block's patch returns.
        layout: Of the hidden states.
        packed: Whether these are several streams, of which the video's is the first.
        before: Tokens before the video's, as a function of the forward and the patch size.
        after: Tokens after them; None where that is not known beforehand.
        lead: Latent frames at the head of the latents that are references and not of the video.
        trail: The same at their tail (guides).
        call: Runs a block; for classes whose own way to do so under a patch fails.
        remembers: Whether a forward leaves something behind, so that none may be made twice.
        diffusers: The class of the same model in diffusers, for profiles.
        config: For its fields that a profile may name, the attributes whose quotient it is.
        lies: Where the video's tokens lie, in words.
        note: Which models, and limits.
    """

    transformer: str
    stacks: tuple[Stack, ...]
    width: tuple[str, ...]
    patch: str = "patch_size"
    patch_frames: str = ""
    output: str = "img"
    layout: Layout = "BND"
    packed: bool = False
    before: Callable[[Forward, Size], int] = _no_tokens
    after: Callable[[Forward, Size], int | None] = _no_tokens
    lead: Callable[[Forward], int] = lambda forward: 0
    trail: Callable[[Forward, Size], int] = _no_tokens
    call: Callable[[Any, Mapping[str, Any]], Any] | None = None
    remembers: bool = False
    diffusers: str = ""
    config: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lies: str = "all"
    note: str = ""

    def blocks(self, transformer: Any) -> list[tuple[Stack, int, Any]]:
        """Each block with its stack and its index there, in forward order."""
        found = []
        for stack in self.stacks:
            blocks = getattr(transformer, stack.blocks)
            blocks = blocks.values() if isinstance(blocks, torch.nn.ModuleDict) else blocks
            found += [(stack, index, block) for index, block in enumerate(blocks)]
        return found

    def tokens(self, output: Any) -> torch.Tensor:
        """What a block returned as a view (B, N, D), or (N, D) of one sample."""
        hidden_states: torch.Tensor = output[0] if self.packed else output
        if self.layout == "BTHWD":
            return hidden_states.view(hidden_states.shape[0], -1, hidden_states.shape[-1])
        if self.layout == "THWBD":
            return hidden_states.view(-1, *hidden_states.shape[3:]).transpose(0, 1)
        return hidden_states

    def feature_width(self, transformer: Any) -> int:
        """D, the width of the hidden states at a block's output."""
        return math.prod(int(getattr(transformer, name)) for name in self.width)

    def patch_size(self, transformer: Any) -> Size:
        """Latent frames, rows and columns that make one token."""
        value = transformer
        for name in self.patch.split("."):
            value = getattr(value, name)
        if isinstance(value, int):
            frames = getattr(transformer, self.patch_frames) if self.patch_frames else None
            return frames or 1, value, value
        frames, rows, columns = value
        return int(frames), int(rows), int(columns)

    def place(self, forward: Forward) -> Place:
        """Where the video's tokens are in this forward."""
        patch = self.patch_size(forward.transformer)
        frames, rows, columns = (
            -(-count // by) for count, by in zip(forward.latents[2:], patch, strict=True)
        )
        # A window's anchor may be the last of the references.
        lead = max(self.lead(forward), int(forward.anchored))
        trail = self.trail(forward, patch)
        if lead + trail >= frames:
            raise ValueError(
                f"The latent has {frames} latent frames, of which {lead + trail} are references or "
                "guides: no frame of the video is left to steer. Use a longer video."
            )
        after = self.after(forward, patch)
        size = rows * columns
        return Place(
            grid=TokenGrid(frames - lead - trail, rows, columns),
            before=self.before(forward, patch) + lead * size,
            after=None if after is None else after + trail * size,
        )

    def config_of(self, transformer: Any) -> dict[str, int]:
        """The fields of diffusers' config of the same model, as far as profiles name them."""
        found = {}
        for name, (first, *others) in self.config.items():
            value = int(getattr(transformer, first))
            found[name] = value // math.prod(int(getattr(transformer, other)) for other in others)
        return found


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the video's tokens lie among those that a block returns, text aside.

    Args:
        grid: Of the video's own tokens.
        before: How many tokens come first.
        after: How many come last; None where that is not known.
    """

    grid: TokenGrid
    before: int = 0
    after: int | None = 0

    def of(self, hidden_states: torch.Tensor, text: bool = False) -> torch.Tensor:
        """The video's tokens as a view of hidden states, (B, N, D).

        Args:
            hidden_states: What a block returned, (B, N, D), or (N, D) of one sample.
            text: Whether tokens of text come first in it.

        Raises:
            RuntimeError: The number of tokens is not the one that the inputs make.
        """
        if hidden_states.ndim == 2:
            hidden_states = hidden_states[None]
        count, present = self.grid.num_tokens, hidden_states.shape[1]
        wanted = self.before + count + (self.after or 0)
        if present < wanted or (present > wanted and not text and self.after is not None):
            raise RuntimeError(
                f"A block returned {present} tokens a sample, but the latent and its conditions "
                f"make {wanted} ({self.grid}). This version of ComfyUI, or another pack, lays its "
                "tokens out in another way: bypass the STAS nodes, and please report it."
            )
        start = self.before + (present - wanted if text else 0)
        return hidden_states[:, start : start + count]


def _reference_by_convolution(forward: Forward, patch: Size) -> int:
    """Wan Fun's reference image: a latent (B, C, H, W) that has a patch embedding of its own."""
    reference = forward.conds.get("reference_latent")
    if reference is None or getattr(forward.transformer, "ref_conv", None) is None:
        return 0
    rows, columns = (count // by for count, by in zip(reference.shape[-2:], patch[1:], strict=True))
    return int(rows * columns)


def _appended(*names: str) -> Callable[[Forward, Size], int]:
    """Latents of conditions, each of which may be a list, that are appended to the video's."""

    def after(forward: Forward, patch: Size) -> int:
        total = 0
        for name in names:
            found = forward.conds.get(name)
            latents = found if isinstance(found, list) else [] if found is None else [found]
            total += sum(forward.tokens_of(each, patch) for each in latents)
        return total

    return after


_references = _appended("reference_latent")
_concatenated = _appended("time_dim_concat")


def _references_last(forward: Forward, patch: Size) -> int:
    return _concatenated(forward, patch) + _references(forward, patch)


def _speech_to_video_tail(forward: Forward, patch: Size) -> int | None:
    if forward.conds.get("reference_motion") is not None:  # packed at several scales
        return None
    return _references_last(forward, patch)


def _vace_references(forward: Forward) -> int:
    """Leading frames that WanVaceToVideo makes of a reference image.

    They are the only ones whose reactive half (16 of 32 channels of the control latents) and mask
    are zero: a frame of a control video that is masked out encodes grey there.
    """
    context = forward.conds.get("vace_context")
    if context is None or context.shape[2] <= 32:
        return 0
    used = context[0, 0, 16:].abs().amax(dim=(0, 2, 3)) > 1e-3
    return int(used.int().argmax()) if bool(used.any()) else 0


def _guide_frames(forward: Forward, patch: Size) -> int:
    """LTX's guides are latent frames at the tail, and may lose tokens on the way."""
    keyframes = forward.conds.get("keyframe_idxs")
    if keyframes is None:
        return 0
    rows, columns = (count // by for count, by in zip(forward.latents[3:], patch[1:], strict=True))
    return int(keyframes.shape[2]) // (rows * columns)


def _tail_of_guides(forward: Forward, patch: Size) -> int | None:
    return None if _guide_frames(forward, patch) else 0


def _call_kandinsky(block: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    # ComfyUI's own way passes x=, which is no parameter of the block.
    hidden_states = block(
        args["x"],
        args["context"],
        args["time_embed"],
        freqs=args["freqs"],
        transformer_options=args["transformer_options"],
    )
    return {"x": hidden_states}


_WAN: dict[str, Any] = {
    "stacks": (Stack(blocks="blocks"),),
    "width": ("dim",),
    "diffusers": "WanTransformer3DModel",
    "config": {
        "num_layers": ("num_layers",),
        "num_attention_heads": ("num_heads",),
        "attention_head_dim": ("dim", "num_heads"),
    },
}
_LTX: dict[str, Any] = {
    "stacks": (Stack(blocks="transformer_blocks"),),
    "width": ("inner_dim",),
    "patch": "patchifier.patch_size",
    "trail": _guide_frames,
    "after": _tail_of_guides,
}

_HOOKED = Stack(blocks="blocks", key=None)

MODELS: dict[str, ComfyModel] = {
    row.transformer: row
    for row in (
        ComfyModel(
            transformer="WanModel",
            before=_reference_by_convolution,
            after=_appended("time_dim_concat", "context_latents"),
            lies="after Fun's reference image, before Phantom's and other references",
            note="Wan2.1, Wan2.2 and its 5B, text and image to video, Fun, Phantom",
            **_WAN,
        ),
        ComfyModel(
            transformer="VaceWanModel",
            after=_concatenated,
            lead=_vace_references,
            lies="after the latent frames of reference images",
            note="what VACE adds after a block is added to what was steered",
            **_WAN,
        ),
        ComfyModel(transformer="CameraWanModel", after=_concatenated, **_WAN),
        ComfyModel(
            transformer="HumoWanModel",
            after=_references_last,
            lies="before references",
            **_WAN,
        ),
        ComfyModel(
            transformer="WanModel_S2V",
            after=_speech_to_video_tail,
            lies="before references and motion frames",
            note="sound is added after a block, to what was steered",
            **_WAN,
        ),
        ComfyModel(
            transformer="AnimateWanModel",
            before=_reference_by_convolution,
            after=_concatenated,
            lead=lambda forward: int(forward.start == 0),
            lies="after the latent frame of the reference image",
            note="faces are added after every fifth block, to what was steered",
            **_WAN,
        ),
        ComfyModel(
            transformer="SCAILWanModel",
            before=_references,
            after=_appended("time_dim_concat", "pose_latents"),
            lies="after references, before poses",
            **_WAN,
        ),
        ComfyModel(
            transformer="SCAIL2WanModel",
            before=_references,
            after=_appended("time_dim_concat", "pose_latents"),
            lies="after references, before poses",
            **_WAN,
        ),
        ComfyModel(
            transformer="WanAnimate2Model",
            lead=lambda forward: int(forward.start == 0),
            lies="after the latent frame of the reference image",
            note="poses run in a branch of their own, which is left alone",
            **_WAN,
        ),
        ComfyModel(
            transformer="WanDancerModel",
            after=_concatenated,
            note="sound is added after a block, to what was steered",
            **_WAN,
        ),
        ComfyModel(
            transformer="HunyuanVideo",
            stacks=(
                Stack(blocks="double_blocks"),
                Stack(blocks="single_blocks", key="single_block", text=True),
            ),
            width=("hidden_size",),
            before=_appended("ref_latent"),
            lies="last, after text (single blocks) and a reference image",
            note="1.0, 1.5 and image to video; HunyuanImage makes one frame and is refused",
        ),
        ComfyModel(transformer="LTXVModel", lies="before guides and keyframes", **_LTX),
        ComfyModel(
            transformer="LTXAVModel",
            packed=True,
            lies="before guides and keyframes",
            note="LTX-2; sound is left alone",
            **_LTX,
        ),
        ComfyModel(
            transformer="AsymmDiTJoint",
            stacks=(Stack(blocks="blocks"),),
            width=("num_heads", "head_dim"),
            note="Mochi",
        ),
        ComfyModel(
            transformer="Kandinsky5",
            stacks=(Stack(blocks="visual_transformer_blocks"),),
            width=("model_dim",),
            output="x",
            call=_call_kandinsky,
        ),
        ComfyModel(
            transformer="MiniMaxH3Model",
            stacks=(Stack(blocks="blocks", text=True),),
            width=("hidden_size",),
            lies="last, after text, references and sound",
        ),
        ComfyModel(
            transformer="CausalWanModel",
            remembers=True,
            note="made in chunks, each of which is steered as a video of its own: with one latent "
            "frame a chunk, all of its tokens count as the first frame's",
            **_WAN | {"stacks": (_HOOKED,)},
        ),
        ComfyModel(
            transformer="GeneralDIT",
            stacks=(_HOOKED,),
            width=("model_channels",),
            patch="patch_spatial",
            patch_frames="patch_temporal",
            layout="THWBD",
            note="Cosmos 1",
        ),
        ComfyModel(
            transformer="MiniTrainDIT",
            stacks=(_HOOKED,),
            width=("model_channels",),
            patch="patch_spatial",
            patch_frames="patch_temporal",
            layout="BTHWD",
            note="Cosmos Predict2",
        ),
        ComfyModel(
            transformer="CogVideoXTransformer3DModel",
            stacks=(_HOOKED,),
            width=("dim",),
            patch_frames="patch_size_t",
            packed=True,
        ),
    )
}


def find_model(transformer: Any) -> ComfyModel:
    """The row of a transformer of ComfyUI's own.

    Raises:
        ValueError: There is none; the message says why.
    """
    name, module = type(transformer).__name__, type(transformer).__module__
    known = f"STAS knows {', '.join(MODELS)}."
    if not module.startswith("comfy."):
        raise ValueError(
            f"{name} is a model of another pack ({module}), which has its own way to run blocks. "
            f"Load the checkpoint with ComfyUI's own loader (Load Diffusion Model). {known}"
        )
    if name not in MODELS:
        raise ValueError(f"{name} is no video model that STAS knows. {known}")
    return MODELS[name]
