"""What steering must know about each transformer: one row of data per class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from stas.tokens import Axes, Place, TokenGrid, VideoTokens

Verified = Literal["class", "pipeline", "caches", "compiled"]
Latents = Literal["BCFHW", "BFCHW", "BFHWC", "list CFHW", "packed"]
Guidance = Literal["separate", "batched"]
ContextMeaning = Literal["cond", "uncond", "other"]


class UnsupportedModelError(ValueError):
    """The model is not one that stas can steer; the message says what is and how to add one."""


@dataclass(frozen=True)
class Forward:
    """One forward of a transformer, as the functions of a row see it.

    Args:
        config: The transformer's config.
        inputs: The forward's arguments by name.
        seen: For each pipeline method that the row watches and that was called, its arguments by
            name, and what it returned as "return". Empty for a bare transformer.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    seen: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How one transformer class lays out its blocks and its visual tokens.

    Args:
        transformer: Name of the transformer class.
        pipelines: Names of the pipeline classes that run it, with those that are refused.
        stacks: Attributes that hold the blocks, in forward order.
        interleaved: Whether the stacks take turns, block by block.
        video_output: Position of the visual tokens in a block's output tuple; None when the
            output is the tensor itself.
        axes: For stacks whose blocks return other axes than (B, N, D), their layout.
        latents: How the forward's inputs say the grid: the layout of `hidden_states` (batch,
            channels, frames, height, width; "list CFHW" is a list of samples), or "packed"
            latents (B, N, C) beside `num_frames`, `height` and `width` in latent units.
        grid: For other inputs, a function of the forward: the batch and the grid of tokens.
        place: Where the video's tokens are among those of a block.
        lead_frames: Latent frames of the grid before the video's first that are not of it
            (reference images, an earlier video), or a function of the forward.
        trail_frames: The same after the video's last.
        tile: A function of the forward: rows of the square tiles that order the tokens of a
            latent frame, or None for raster order.
        idle: A function of the forward: whether it is no denoising step and is left alone (it
            fills a cache, say).
        watches: Methods of the pipeline whose arguments those functions read.
        loop_starters: For pipelines that never call their scheduler's `step`, the method that
            begins a loop and returns its timesteps first; each cond forward is then a step.
        counts_early: Pipelines that set their number of timesteps before `set_timesteps`.
        guidance: How classifier-free guidance calls the transformer: "separate" calls, cond
            first, or one "batched" call with the uncond rows first.
        contexts: What cache contexts mean, beside "cond", "uncond", "cond_uncond" and the guiders'
            "pred_cond" and "pred_uncond"; "other" is a forward of another kind of guidance.
        patch_field: Field of the transformer's config that says how many latents make a token.
        width: Fields of the transformer's config whose product is D, the feature width.
        fps: Frames per second that the checkpoints of this class were made for.
        frame_step: The VAE makes videos of 1 + frame_step * n pixel frames; None when that is its
            temporal compression.
        causal: Whether the VAE encodes the first pixel frame alone; else it makes frame_step * n.
        float32: Pipeline components that diffusers says to keep in float32.
        tiled_vae: Whether the VAE decodes only with `enable_tiling`.
        chunked: Pipelines that decode the video part by part, so that no one FrameMap holds for
            all of it.
        needs: What a pipeline needs beside a prompt, by its name, where its signature does not
            say so.
        refusals: What can't be done and why, by "steer", "record" or the name of a pipeline.
        verified: What the tests run: the real class with random weights, a real pipeline, with
            diffusers' caches, compiled.
        note: What a user should know, in a few words.

    Example:
        >>> MODELS["WanTransformer3DModel"].stacks
        ('blocks',)
    """

    transformer: str
    pipelines: tuple[str, ...]
    stacks: tuple[str, ...]
    interleaved: bool = False
    video_output: int | None = None
    axes: Mapping[str, Axes] = field(default_factory=dict)
    latents: Latents = "BCFHW"
    grid: Callable[[Forward], tuple[int, TokenGrid]] | None = None
    place: Place = "all"
    lead_frames: int | Callable[[Forward], int] = 0
    trail_frames: int | Callable[[Forward], int] = 0
    tile: Callable[[Forward], int | None] | None = None
    idle: Callable[[Forward], bool] | None = None
    watches: tuple[str, ...] = ()
    loop_starters: Mapping[str, str] = field(default_factory=dict)
    counts_early: tuple[str, ...] = ()
    guidance: Guidance = "separate"
    contexts: Mapping[str, ContextMeaning] = field(default_factory=dict)
    patch_field: str = "patch_size"
    width: tuple[str, ...] = ("num_attention_heads", "attention_head_dim")
    fps: float = 16
    frame_step: int | None = None
    causal: bool = True
    float32: tuple[str, ...] = ()
    tiled_vae: bool = False
    chunked: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    verified: tuple[Verified, ...] = ()
    note: str = ""

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in forward order."""
        return [block for _, block in self._ordered(transformer)]

    def block_axes(self, transformer: nn.Module) -> list[Axes]:
        """The axes of what each block returns, in the order of `blocks`."""
        return [self.axes.get(stack, "BND") for stack, _ in self._ordered(transformer)]

    def _ordered(self, transformer: nn.Module) -> list[tuple[str, nn.Module]]:
        for stack in self.stacks:
            if not hasattr(transformer, stack):
                raise UnsupportedModelError(
                    f"{type(transformer).__name__} has no {stack!r}, where the row of "
                    f"{self.transformer} says that its blocks are."
                )
        stacks = [
            [(stack, block) for block in getattr(transformer, stack)] for stack in self.stacks
        ]
        if self.interleaved:
            return [pair for turn in zip(*stacks, strict=True) for pair in turn]
        return [pair for stack in stacks for pair in stack]

    def feature_width(self, config: Mapping[str, Any]) -> int:
        """D, the width of the hidden states at a block's output."""
        return math.prod(int(self._read(config, name, "width")) for name in self.width)

    def patch(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """How many latent frames, rows and columns make one token."""
        size = self._read(config, self.patch_field, "grid")
        if isinstance(size, int):
            return config.get("patch_size_t") or 1, size, size
        frames, rows, columns = size
        return frames, rows, columns

    def _read(self, config: Mapping[str, Any], name: str, argument: str) -> Any:
        if name not in config:
            raise UnsupportedModelError(
                f"The config of {self.transformer} has no {name!r}: say in the {argument} of its "
                "row (stas.ModelSpec) how to do without."
            )
        return config[name]

    def facts(self) -> dict[str, Any]:
        """What the row says, as plain data for tables and JSON.

        Example:
            >>> MODELS["MochiTransformer3DModel"].facts()["tokens"]
            'all of output 0'
        """
        limits = [self.note] if self.note else []
        limits += [f"{name}: {reason}" for name, reason in self.refusals.items()]
        return {
            "transformer": self.transformer,
            "pipelines": list(self.pipelines),
            "verified": list(self.verified),
            "guidance": self.guidance,
            "tokens": self._tokens_text(),
            "fps": self.fps,
            "needs": dict(self.needs),
            "limits": limits,
        }

    def _tokens_text(self) -> str:
        if "record" in self.refusals:
            return "not known"
        text = {"all": "all", "head": "the first", "tail": "the last"}[self.place]
        if self.video_output is not None:
            text += f" of output {self.video_output}"
        if callable(self.lead_frames):
            text += ", without latent frames before the video"
        elif self.lead_frames:
            text += f", without {self.lead_frames} latent frame before the video"
        if callable(self.trail_frames) or self.trail_frames:
            text += ", without latent frames after the video"
        if self.tile is not None:
            text += ", in tiles"
        if folded := [axes for axes in self.axes.values() if axes != "BND"]:
            text += f", as {' and '.join(folded)}"
        return text

    def video_tokens(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        seen: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> VideoTokens | None:
        """Where the video's tokens are in a forward, None when it is no denoising step.

        Args:
            config: The transformer's config.
            inputs: The forward's arguments by name.
            seen: What the watched methods of the pipeline were given; see `Forward`.
        """
        forward = Forward(config, inputs, seen or {})
        if self.idle is not None and self.idle(forward):
            return None
        batch, grid = self._whole_grid(forward)
        lead, trail = (
            frames if isinstance(frames, int) else frames(forward)
            for frames in (self.lead_frames, self.trail_frames)
        )
        return VideoTokens(
            TokenGrid(grid.frames - lead - trail, grid.height, grid.width),
            batch=batch,
            place="head" if trail and self.place == "all" else self.place,
            lead=lead,
            tile=None if self.tile is None else self.tile(forward),
        )

    def _whole_grid(self, forward: Forward) -> tuple[int, TokenGrid]:
        """The batch, and the grid with the frames that are not of the video."""
        if self.grid is not None:
            return self.grid(forward)
        latents = forward.inputs["hidden_states"]
        if self.latents == "packed":
            return latents.shape[0], _stated_grid(forward.inputs)
        if self.latents == "list CFHW":
            batch, shape, layout = len(latents), latents[0].shape, "CFHW"
        else:
            batch, shape, layout = latents.shape[0], latents.shape, self.latents
        patch = self.patch(forward.config)
        frames, height, width = (shape[layout.index(axis)] for axis in "FHW")
        return batch, TokenGrid(-(-frames // patch[0]), height // patch[1], width // patch[2])


def _stated_grid(inputs: Mapping[str, Any]) -> TokenGrid:
    return TokenGrid(*(int(inputs[key]) for key in ("num_frames", "height", "width")))


def _ltx_grid(forward: Forward) -> tuple[int, TokenGrid]:
    """LTX-Video: the grid as stated, else from the tokens' coordinates.

    Tokens of conditions come before the video's and count time from where they apply, so the
    video begins at the last token at the origin. Reading coordinates makes the host wait; the
    pipeline keeps the tensor over its call, so that happens once.
    """
    inputs = forward.inputs
    batch, tokens = inputs["hidden_states"].shape[:2]
    if inputs.get("num_frames") is not None:
        grid = _stated_grid(inputs)
        if grid.num_tokens != tokens:
            raise UnsupportedModelError(
                f"The transformer is given {tokens} tokens, and num_frames, height and width for "
                f"{grid.num_tokens}: which of them are the video's is not known."
            )
        return batch, grid
    coordinates = inputs["video_coords"]
    for known, grid in _LTX_READ:  # read in one go: threads share the list
        if known is coordinates:
            return batch, grid
    first = coordinates[0].detach().float().cpu()
    start = int((first == 0).all(dim=0).nonzero()[-1])
    times = first[0, start:]
    frame_size = int((times == 0).sum())
    row = first[2, start : start + frame_size]
    width = int((row == 0).nonzero()[1]) if int((row == 0).sum()) > 1 else frame_size
    grid = TokenGrid(len(times) // frame_size, frame_size // width, width)
    _LTX_READ[:] = [(coordinates, grid)]
    return batch, grid


_LTX_READ: list[tuple[torch.Tensor, TokenGrid]] = []  # the coordinates read last


def _cosmos3_grid(forward: Forward) -> tuple[int, TokenGrid]:
    shapes = forward.inputs["vision_token_shapes"]
    if len(shapes) != 1:
        raise UnsupportedModelError(
            f"Cosmos 3 packs {len(shapes)} videos or images into one sequence here; exactly one "
            "can be steered or recorded."
        )
    return 1, TokenGrid(*shapes[0])


def _flux_grid(forward: Forward) -> tuple[int, TokenGrid]:
    image = forward.inputs["img_ids"]
    own = image[image[:, 0] == 0]  # reference images have other ids
    rows, columns = (int(own[:, axis].max()) + 1 for axis in (1, 2))
    return forward.inputs["hidden_states"].shape[0], TokenGrid(1, rows, columns)


def _sd3_grid(forward: Forward) -> tuple[int, TokenGrid]:
    batch, _, height, width = forward.inputs["hidden_states"].shape
    patch = forward.config["patch_size"]
    return batch, TokenGrid(1, height // patch, width // patch)


def _qwen_grid(forward: Forward) -> tuple[int, TokenGrid]:
    shapes = forward.inputs["img_shapes"][0]
    frames, height, width = shapes if isinstance(shapes[0], int) else shapes[0]
    return forward.inputs["hidden_states"].shape[0], TokenGrid(frames, height, width)


def _vace_references(forward: Forward) -> int:
    images = forward.seen.get("prepare_masks", {}).get("reference_images")
    return len(images[0]) if images else 0


def _skyreels_prefix(forward: Forward) -> int:
    """Frames that an earlier window or a given video made; an image is the video's own first."""
    call = forward.seen.get("generate_timestep_matrix")
    if call is None:
        return 0
    if call["ar_step"]:
        raise UnsupportedModelError(
            "Asynchronous diffusion forcing (ar_step above 0) has each latent frame at another "
            "denoising step, so there is no first part of denoising to steer. Use ar_step=0."
        )
    latents = forward.seen.get("prepare_latents", {})
    if latents.get("image") is not None and not latents.get("long_video_iter"):
        return 0
    return int(call["num_pre_ready"])


def _far_idle(forward: Forward) -> bool:
    flags = forward.inputs.get("kv_cache_flag") or {}
    return bool(flags.get("is_cache_step"))


# One row per class. Layouts were found by running the real classes (tests/zoo); the rest, such as
# frames per second, is what diffusers' documentation of each pipeline says.
_IMAGE = "it makes one frame, and the method steers videos. stas.record reads it."
_MODULAR = "Only modular pipelines run it; steer its bare transformer and use handle.set_step."
_WAN_FAMILY: dict[str, Any] = {"stacks": ("blocks",), "float32": ("vae",)}

MODELS: dict[str, ModelSpec] = {
    spec.transformer: spec
    for spec in (
        ModelSpec(
            transformer="WanTransformer3DModel",
            pipelines=(
                "WanPipeline",
                "WanImageToVideoPipeline",
                "WanVideoToVideoPipeline",
                "LucyEditPipeline",
            ),
            **_WAN_FAMILY,
            needs={"WanVideoToVideoPipeline": "video"},
            verified=("class", "pipeline", "caches", "compiled"),
            note="Wan2.1 and Wan2.2; both experts of Wan2.2 A14B share one schedule",
        ),
        ModelSpec(
            transformer="WanVACETransformer3DModel",
            pipelines=("WanVACEPipeline",),
            **_WAN_FAMILY,
            lead_frames=_vace_references,
            watches=("prepare_masks",),
            verified=("class", "pipeline"),
            note="reference images are not steered; on a bare transformer they can't be told apart",
        ),
        ModelSpec(
            transformer="WanAnimateTransformer3DModel",
            pipelines=("WanAnimatePipeline",),
            **_WAN_FAMILY,
            lead_frames=1,
            fps=30,
            chunked=("WanAnimatePipeline",),
            verified=("class", "pipeline"),
            note="the reference image's frame is not steered; each segment is a loop",
        ),
        ModelSpec(
            transformer="WanAnimate2Transformer3DModel",
            pipelines=(),
            stacks=("blocks",),
            latents="list CFHW",
            lead_frames=1,
            idle=lambda forward: forward.inputs.get("kv_cache_mode") == "extract",
            width=("dim",),
            verified=("class",),
            note=_MODULAR,
        ),
        ModelSpec(
            transformer="ChronoEditTransformer3DModel",
            pipelines=("ChronoEditPipeline",),
            stacks=("blocks",),
            float32=("vae", "image_encoder"),
            verified=("class", "pipeline"),
            note="with temporal reasoning the frames get fewer within one loop",
        ),
        ModelSpec(
            transformer="SkyReelsV2Transformer3DModel",
            pipelines=(
                "SkyReelsV2Pipeline",
                "SkyReelsV2ImageToVideoPipeline",
                "SkyReelsV2DiffusionForcingPipeline",
                "SkyReelsV2DiffusionForcingImageToVideoPipeline",
                "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
            ),
            **_WAN_FAMILY,
            lead_frames=_skyreels_prefix,
            watches=("generate_timestep_matrix", "prepare_latents"),
            loop_starters={
                "SkyReelsV2DiffusionForcingPipeline": "generate_timestep_matrix",
                "SkyReelsV2DiffusionForcingImageToVideoPipeline": "generate_timestep_matrix",
                "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "generate_timestep_matrix",
            },
            fps=24,
            chunked=("SkyReelsV2DiffusionForcingVideoToVideoPipeline",),  # behind the given video
            verified=("class", "pipeline"),
            note="diffusion forcing only with ar_step=0; each window is a loop",
        ),
        ModelSpec(
            transformer="HeliosTransformer3DModel",
            pipelines=("HeliosPipeline", "HeliosPyramidPipeline"),
            **_WAN_FAMILY,
            place="tail",
            fps=24,
            chunked=("HeliosPipeline", "HeliosPyramidPipeline"),
            verified=("class", "pipeline"),
            note="each chunk, and each stage of a pyramid, is a loop with its own first frame",
        ),
        ModelSpec(
            transformer="AnyFlowTransformer3DModel",
            pipelines=("AnyFlowPipeline",),
            stacks=("blocks",),
            latents="BFCHW",
            guidance="batched",
            counts_early=("AnyFlowPipeline",),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="AnyFlowFARTransformer3DModel",
            pipelines=("AnyFlowFARPipeline",),
            stacks=("blocks",),
            latents="BFCHW",
            idle=_far_idle,
            guidance="batched",
            counts_early=("AnyFlowFARPipeline",),
            verified=("class", "pipeline"),
            note="each chunk is a loop with a first frame of its own; passes that fill the cache "
            "are left alone",
        ),
        ModelSpec(
            transformer="SanaVideoTransformer3DModel",
            pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
            stacks=("transformer_blocks",),
            guidance="batched",
            float32=("vae",),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="SanaWMTransformer3DModel",
            pipelines=("SanaWMPipeline",),
            stacks=("blocks",),
            guidance="batched",
            width=("hidden_size",),
            verified=("class", "pipeline"),
            note="its refiner is another model and is not steered",
        ),
        ModelSpec(
            transformer="CogVideoXTransformer3DModel",
            pipelines=(
                "CogVideoXPipeline",
                "CogVideoXImageToVideoPipeline",
                "CogVideoXVideoToVideoPipeline",
                "CogVideoXFunControlPipeline",
            ),
            stacks=("transformer_blocks",),
            video_output=0,
            latents="BFCHW",
            guidance="batched",
            fps=8,
            frame_step=8,  # an even number of latent frames decodes to 4 * n pixel frames
            needs={
                "CogVideoXVideoToVideoPipeline": "video",
                "CogVideoXFunControlPipeline": "control_video",
            },
            verified=("class", "pipeline", "caches", "compiled"),
            note="1.0 and 1.5",
        ),
        ModelSpec(
            transformer="ConsisIDTransformer3DModel",
            pipelines=("ConsisIDPipeline",),
            stacks=("transformer_blocks",),
            video_output=0,
            latents="BFCHW",
            guidance="batched",
            fps=8,
            frame_step=8,
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="HunyuanVideoTransformer3DModel",
            pipelines=(
                "HunyuanVideoPipeline",
                "HunyuanVideoImageToVideoPipeline",
                "HunyuanSkyreelsImageToVideoPipeline",
            ),
            stacks=("transformer_blocks", "single_transformer_blocks"),
            video_output=0,
            lead_frames=lambda forward: int(
                forward.config.get("image_condition_type") == "latent_concat"
            ),
            fps=15,
            verified=("class", "pipeline", "caches", "compiled"),
            note="with latent_concat the image's frame is dropped from the video and not steered",
        ),
        ModelSpec(
            transformer="HunyuanVideoFramepackTransformer3DModel",
            pipelines=("HunyuanVideoFramepackPipeline",),
            stacks=("transformer_blocks", "single_transformer_blocks"),
            video_output=0,
            place="tail",
            fps=30,
            chunked=("HunyuanVideoFramepackPipeline",),
            verified=("class", "pipeline"),
            note="each section is a loop with a first frame of its own; history is not steered",
        ),
        ModelSpec(
            transformer="HunyuanVideo15Transformer3DModel",
            pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
            stacks=("transformer_blocks",),
            video_output=0,
            fps=24,
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="MotifVideoTransformer3DModel",
            pipelines=("MotifVideoPipeline", "MotifVideoImage2VideoPipeline"),
            stacks=("transformer_blocks", "single_transformer_blocks"),
            video_output=0,
            fps=24,
            verified=("class", "pipeline"),
            note="the last num_decoder_layers blocks begin anew from the patches",
        ),
        ModelSpec(
            transformer="MochiTransformer3DModel",
            pipelines=("MochiPipeline",),
            stacks=("transformer_blocks",),
            video_output=0,
            guidance="batched",
            fps=30,
            verified=("class", "pipeline", "caches", "compiled"),
        ),
        ModelSpec(
            transformer="LTXVideoTransformer3DModel",
            pipelines=(
                "LTXPipeline",
                "LTXImageToVideoPipeline",
                "LTXConditionPipeline",
                "LTXI2VLongMultiPromptPipeline",
            ),
            stacks=("transformer_blocks",),
            latents="packed",
            grid=_ltx_grid,
            place="tail",
            guidance="batched",
            fps=24,
            needs={"LTXImageToVideoPipeline": "image"},
            refusals={
                "LTXI2VLongMultiPromptPipeline": "it tells the transformer no grid of tokens, and "
                "adds tokens of other windows behind the video's."
            },
            verified=("class", "pipeline", "caches", "compiled"),
            note="tokens of conditions come before the video's and are not steered",
        ),
        ModelSpec(
            transformer="LTX2VideoTransformer3DModel",
            pipelines=(
                "LTX2Pipeline",
                "LTX2ImageToVideoPipeline",
                "LTX2ConditionPipeline",
                "LTX2InContextPipeline",
                "LTX2HDRPipeline",
                "LTX2DFRPipeline",
                "LTX2DFRTemporalRefinePipeline",
            ),
            stacks=("transformer_blocks",),
            video_output=0,
            latents="packed",
            place="head",
            guidance="batched",
            contexts={"uncond_stg": "other", "uncond_modality": "other"},
            fps=24,
            needs={"LTX2ImageToVideoPipeline": "image"},
            refusals=dict.fromkeys(
                ("LTX2DFRPipeline", "LTX2DFRTemporalRefinePipeline"),
                "it runs the transformer on crops of the frames and tells it no grid of tokens.",
            ),
            verified=("class", "pipeline"),
            note="tokens of key frames and references come after the video's; audio is not steered",
        ),
        ModelSpec(
            transformer="AllegroTransformer3DModel",
            pipelines=("AllegroPipeline",),
            stacks=("transformer_blocks",),
            guidance="batched",
            fps=15,
            causal=False,
            float32=("vae",),
            tiled_vae=True,
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="LatteTransformer3DModel",
            pipelines=("LattePipeline",),
            stacks=("transformer_blocks", "temporal_transformer_blocks"),
            interleaved=True,
            axes={"transformer_blocks": "(BF)SD", "temporal_transformer_blocks": "(BS)FD"},
            guidance="batched",
            fps=8,
            frame_step=1,
            causal=False,
            verified=("class", "pipeline", "caches"),
            note="spatial and temporal blocks take turns; each frame is a latent frame",
        ),
        ModelSpec(
            transformer="EasyAnimateTransformer3DModel",
            pipelines=("EasyAnimatePipeline", "EasyAnimateInpaintPipeline"),
            stacks=("transformer_blocks",),
            video_output=0,
            guidance="batched",
            fps=8,
            verified=("class", "pipeline"),
            note="EasyAnimateControlPipeline fails in diffusers 0.42.1 by itself",
        ),
        ModelSpec(
            transformer="CosmosTransformer3DModel",
            pipelines=(
                "CosmosTextToWorldPipeline",
                "CosmosVideoToWorldPipeline",
                "Cosmos2TextToImagePipeline",
                "Cosmos2VideoToWorldPipeline",
                "Cosmos2_5_PredictBasePipeline",
                "Cosmos2_5_TransferPipeline",
            ),
            stacks=("transformer_blocks",),
            chunked=("Cosmos2_5_TransferPipeline",),
            needs={
                "CosmosVideoToWorldPipeline": "image or video",
                "Cosmos2VideoToWorldPipeline": "image or video",
            },
            verified=("class", "pipeline"),
            note="given frames are the video's own first ones; its pipelines need torchvision for "
            "padding masks",
        ),
        ModelSpec(
            transformer="Cosmos3OmniTransformer",
            pipelines=("Cosmos3OmniPipeline",),
            stacks=("layers",),
            video_output=1,
            axes={"layers": "ND"},
            grid=_cosmos3_grid,
            place="head",
            patch_field="latent_patch_size",
            width=("hidden_size",),
            fps=24,
            verified=("class", "pipeline"),
            note="sound and action tokens come after the video's and are not steered",
        ),
        ModelSpec(
            transformer="Kandinsky5Transformer3DModel",
            pipelines=("Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline"),
            stacks=("visual_transformer_blocks",),
            latents="BFHWC",
            tile=lambda forward: (
                8 if (forward.inputs.get("sparse_params") or {}).get("to_fractal") else None
            ),
            width=("model_dim",),
            fps=24,
            verified=("class", "pipeline", "caches"),
            note="dense and in tiles (NABLA); diffusers' FirstBlockCache fails on it by itself",
        ),
        ModelSpec(
            transformer="Kandinsky6Transformer3DModel",
            pipelines=("Kandinsky6TI2VAPipeline",),
            stacks=("visual_transformer_blocks",),
            video_output=0,
            latents="BFHWC",
            trail_frames=lambda forward: int(
                forward.inputs.get("visual_token_type_ids") is not None
            ),
            width=("model_dim",),
            fps=24,
            verified=("class", "pipeline"),
            note="the reference image's frame, after the video, and audio are not steered",
        ),
        ModelSpec(
            transformer="Kandinsky6SRTransformer3DModel",
            pipelines=("Kandinsky6SRPipeline",),
            stacks=("visual_transformer_blocks",),
            latents="BFHWC",
            tile=lambda forward: 8,
            width=("model_dim",),
            fps=24,
            refusals={
                "steer": "its pipeline enlarges crops one by one: the head and tail of a crop are "
                "not those of a latent frame.",
                "Kandinsky6SRPipeline": "it does not say how many steps its loops have.",
            },
            verified=("class",),
            note="record its bare transformer",
        ),
        ModelSpec(
            transformer="MiniMaxH3Transformer3DModel",
            pipelines=(),
            stacks=("transformer_blocks",),
            refusals=dict.fromkeys(
                ("steer", "record"),
                "it packs text, key frames, audio and video into one sequence, whose grid is only "
                "in position_ids, and only modular pipelines run it.",
            ),
        ),
        ModelSpec(
            transformer="FluxTransformer2DModel",
            pipelines=("FluxPipeline",),
            stacks=("transformer_blocks", "single_transformer_blocks"),
            video_output=1,
            grid=_flux_grid,
            place="head",
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
        ModelSpec(
            transformer="SD3Transformer2DModel",
            pipelines=("StableDiffusion3Pipeline",),
            stacks=("transformer_blocks",),
            video_output=1,
            grid=_sd3_grid,
            guidance="batched",
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
        ModelSpec(
            transformer="QwenImageTransformer2DModel",
            pipelines=("QwenImagePipeline",),
            stacks=("transformer_blocks",),
            video_output=1,
            grid=_qwen_grid,
            place="head",
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
    )
}


def register_model(spec: ModelSpec) -> None:
    """Add a transformer class, so that `steer` takes pipelines that use it.

    Args:
        spec: The row; its `transformer` is the class's name.

    Raises:
        TypeError: Not a ModelSpec, or a field of another type than the row needs.
        ValueError: A row for that class exists, or a field says what no row can say.

    Example:
        >>> register_model(ModelSpec(
        ...     transformer="MyVideoTransformer", pipelines=("MyPipeline",), stacks=("blocks",)
        ... ))
        >>> del MODELS["MyVideoTransformer"]
    """
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"register_model expects a stas.ModelSpec, but got {spec!r}.")
    check_spec(spec)
    if spec.transformer in MODELS:
        raise ValueError(
            f"{spec.transformer} is registered already. To replace its row, delete "
            f"stas.models.MODELS[{spec.transformer!r}] first."
        )
    MODELS[spec.transformer] = spec


def check_spec(spec: ModelSpec) -> None:
    """Raise what is wrong with a row, by field.

    Raises:
        TypeError: A field of another type than the row needs.
        ValueError: A field says what no row can say.
    """
    for name, wanted, text in _FIELD_TYPES:
        value = getattr(spec, name)
        if isinstance(value, bool) and bool not in wanted:
            raise TypeError(f"{name} must be {text}, but got {value!r}.")
        if not isinstance(value, wanted):
            raise TypeError(f"{name} must be {text}, but got {value!r}.")
    for name in _NAMES:
        for entry in getattr(spec, name):
            if not isinstance(entry, str):
                raise TypeError(f"{name} must hold names, but got {entry!r}.")
    for name in _FUNCTIONS:
        value = getattr(spec, name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function of the forward, but got {value!r}.")
    for name in ("lead_frames", "trail_frames"):
        value = getattr(spec, name)
        if not callable(value) and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an integer or a function, but got {value!r}.")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} must be at least 0, but got {value}.")
    for name in ("transformer", "stacks", "width"):
        if not getattr(spec, name):
            raise ValueError(f"{name} must not be empty.")
    if spec.video_output is not None and spec.video_output < 0:
        raise ValueError(f"video_output must be at least 0, but got {spec.video_output}.")
    if not 0 < spec.fps < math.inf:
        raise ValueError(f"fps must be a finite number above 0, but got {spec.fps}.")
    if spec.frame_step is not None and spec.frame_step < 1:
        raise ValueError(f"frame_step must be at least 1, but got {spec.frame_step}.")
    _check_known("latents", [spec.latents], get_args(Latents))
    _check_known("place", [spec.place], get_args(Place))
    _check_known("guidance", [spec.guidance], get_args(Guidance))
    _check_known("verified", spec.verified, get_args(Verified))
    _check_known("axes", spec.axes.values(), get_args(Axes))
    _check_known("the keys of axes", spec.axes, spec.stacks)
    _check_known("contexts", spec.contexts.values(), get_args(ContextMeaning))
    _check_known("the keys of refusals", spec.refusals, ("steer", "record", *spec.pipelines))
    for name in ("needs", "loop_starters"):
        _check_known(f"the keys of {name}", getattr(spec, name), spec.pipelines)
    for name in ("chunked", "counts_early"):
        _check_known(name, getattr(spec, name), spec.pipelines)


def _check_known(name: str, values: Iterable[object], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, but got {value!r}.")


_NAMES = ("pipelines", "stacks", "watches", "counts_early", "width", "float32", "chunked")
_FUNCTIONS = ("grid", "tile", "idle")
_MAPPINGS = ("axes", "loop_starters", "contexts", "needs", "refusals")
_FIELD_TYPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("transformer", (str,), "the name of a class"),
    *((name, (tuple,), "a tuple of names") for name in (*_NAMES, "verified")),
    *((name, (Mapping,), "a mapping") for name in _MAPPINGS),
    *((name, (bool,), "True or False") for name in ("interleaved", "causal", "tiled_vae")),
    ("video_output", (int, type(None)), "an integer or None"),
    ("frame_step", (int, type(None)), "an integer or None"),
    ("fps", (int, float), "a number"),
    ("note", (str,), "text"),
)


def find_spec(transformer: object) -> ModelSpec | None:
    """The row for a transformer's class or the nearest of its base classes."""
    for cls in type(transformer).__mro__:
        if cls.__name__ in MODELS:
            return MODELS[cls.__name__]
    return None


def supported_text() -> str:
    """What is supported and how to add more, for error messages."""
    names = sorted(name for name, spec in MODELS.items() if "steer" not in spec.refusals)
    return (
        f"Supported video transformers: {', '.join(names)}. For another class, describe "
        "it with stas.register_model(stas.ModelSpec(...)). Image models have a single frame and "
        "are not steered."
    )
