"""What steering must know about each transformer: one row of data per class."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from stas.method.tokens import TokenGrid
from stas.models.spec import (
    Forward,
    LoadingSpec,
    LoopSpec,
    ModelSpec,
    TokenSpec,
    UnsupportedModelError,
    stated_grid,
)


def _ltx_grid(forward: Forward) -> tuple[int, TokenGrid]:
    """LTX-Video: the grid as stated, else from the tokens' coordinates.

    Tokens of conditions come before the video's and count time from where they apply, so the
    video begins at the last token at the origin. Reading coordinates makes the host wait; the
    pipeline keeps the tensor over its call, so that happens once.
    """
    inputs = forward.inputs
    batch, tokens = inputs["hidden_states"].shape[:2]
    if inputs.get("num_frames") is not None:
        grid = stated_grid(inputs)
        if grid.num_tokens != tokens:
            raise UnsupportedModelError(
                f"The transformer is given {tokens} tokens, and num_frames, height and width for "
                f"{grid.num_tokens}: which of them are the video's is not known."
            )
        return batch, grid
    coordinates = inputs["video_coords"]
    known, grid = forward.memory.get("video_coords", (None, None))
    if known is not None and known() is coordinates:
        return batch, grid
    first = coordinates[0].detach().float().cpu()
    start = int((first == 0).all(dim=0).nonzero()[-1])
    times = first[0, start:]
    frame_size = int((times == 0).sum())
    row = first[2, start : start + frame_size]
    width = int((row == 0).nonzero()[1]) if int((row == 0).sum()) > 1 else frame_size
    grid = TokenGrid(len(times) // frame_size, frame_size // width, width)
    forward.memory["video_coords"] = weakref.ref(coordinates), grid
    return batch, grid


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


def _count_references(arguments: Mapping[str, Any]) -> int:
    images = arguments.get("reference_images")
    return len(images[0]) if images else 0


def _vace_references(forward: Forward) -> int:
    return int(forward.seen.get("prepare_masks", 0))


def _skyreels_schedule(arguments: Mapping[str, Any]) -> tuple[int, int]:
    return int(arguments["ar_step"]), int(arguments["num_pre_ready"])


def _begins_with_an_image(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("image") is not None and not arguments.get("long_video_iter")


def _skyreels_prefix(forward: Forward) -> int:
    """Frames that an earlier window or a given video made; an image is the video's own first."""
    ar_step, ready = forward.seen.get("generate_timestep_matrix", (0, 0))
    if ar_step:
        raise UnsupportedModelError(
            "Asynchronous diffusion forcing (ar_step above 0) has each latent frame at another "
            "denoising step, so there is no first part of denoising to steer. Use ar_step=0."
        )
    return 0 if forward.seen.get("prepare_latents") else int(ready)


def _far_idle(forward: Forward) -> bool:
    flags = forward.inputs.get("kv_cache_flag") or {}
    return bool(flags.get("is_cache_step"))


_IMAGE = "it makes one frame, and the method steers videos. stas.record reads it."
_MODULAR = "Only modular pipelines run it; steer its bare transformer and use handle.set_step."

# One row per class. Layouts were found by running the real classes (tests/zoo); the rest, such as
# frames per second, is what diffusers' documentation of each pipeline says.
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
            tokens=TokenSpec(stacks=("blocks",)),
            loading=LoadingSpec(
                batched=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"),
                float32=("vae",),
                needs={"WanVideoToVideoPipeline": "video"},
            ),
            verified=("class", "pipeline", "caches", "compiled"),
            note="Wan2.1 and Wan2.2; both experts of Wan2.2 A14B share one schedule",
        ),
        ModelSpec(
            transformer="WanVACETransformer3DModel",
            pipelines=("WanVACEPipeline",),
            tokens=TokenSpec(stacks=("blocks",), lead_frames=_vace_references),
            loop=LoopSpec(watches={"prepare_masks": _count_references}),
            loading=LoadingSpec(float32=("vae",)),
            verified=("class", "pipeline"),
            note="reference images are not steered; on a bare transformer they can't be told apart",
        ),
        ModelSpec(
            transformer="WanAnimateTransformer3DModel",
            pipelines=("WanAnimatePipeline",),
            tokens=TokenSpec(stacks=("blocks",), lead_frames=1),
            loading=LoadingSpec(
                batched=("WanAnimatePipeline",),
                float32=("vae",),
                fps=30,
                chunked=("WanAnimatePipeline",),
            ),
            verified=("class", "pipeline"),
            note="the reference image's frame is not steered; each segment is a loop",
        ),
        ModelSpec(
            transformer="WanAnimate2Transformer3DModel",
            pipelines=(),
            tokens=TokenSpec(
                stacks=("blocks",), latents="list CFHW", lead_frames=1, width=("dim",)
            ),
            loop=LoopSpec(idle=lambda forward: forward.inputs.get("kv_cache_mode") == "extract"),
            verified=("class",),
            note=_MODULAR,
        ),
        ModelSpec(
            transformer="ChronoEditTransformer3DModel",
            pipelines=("ChronoEditPipeline",),
            tokens=TokenSpec(stacks=("blocks",)),
            loading=LoadingSpec(batched=("ChronoEditPipeline",), float32=("vae", "image_encoder")),
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
            tokens=TokenSpec(stacks=("blocks",), lead_frames=_skyreels_prefix),
            loop=LoopSpec(
                watches={
                    "generate_timestep_matrix": _skyreels_schedule,
                    "prepare_latents": _begins_with_an_image,
                },
                starters={
                    "SkyReelsV2DiffusionForcingPipeline": "generate_timestep_matrix",
                    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "generate_timestep_matrix",
                    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "generate_timestep_matrix",
                },
            ),
            loading=LoadingSpec(
                batched=(
                    "SkyReelsV2Pipeline",
                    "SkyReelsV2DiffusionForcingPipeline",
                    "SkyReelsV2ImageToVideoPipeline",
                ),
                float32=("vae",),
                fps=24,
                # It decodes what it made behind the given video.
                chunked=("SkyReelsV2DiffusionForcingVideoToVideoPipeline",),
            ),
            verified=("class", "pipeline"),
            note="diffusion forcing only with ar_step=0; each window is a loop",
        ),
        ModelSpec(
            transformer="HeliosTransformer3DModel",
            pipelines=("HeliosPipeline", "HeliosPyramidPipeline"),
            tokens=TokenSpec(stacks=("blocks",), place="tail"),
            loading=LoadingSpec(
                float32=("vae",), fps=24, chunked=("HeliosPipeline", "HeliosPyramidPipeline")
            ),
            verified=("class", "pipeline"),
            note="each chunk, and each stage of a pyramid, is a loop with its own first frame",
        ),
        ModelSpec(
            transformer="AnyFlowTransformer3DModel",
            pipelines=("AnyFlowPipeline",),
            tokens=TokenSpec(stacks=("blocks",), latents="BFCHW"),
            loop=LoopSpec(counts_early=("AnyFlowPipeline",), guidance="batched"),
            loading=LoadingSpec(batched=("AnyFlowPipeline",)),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="AnyFlowFARTransformer3DModel",
            pipelines=("AnyFlowFARPipeline",),
            tokens=TokenSpec(stacks=("blocks",), latents="BFCHW"),
            loop=LoopSpec(idle=_far_idle, counts_early=("AnyFlowFARPipeline",), guidance="batched"),
            loading=LoadingSpec(batched=("AnyFlowFARPipeline",)),
            verified=("class", "pipeline"),
            note="each chunk is a loop with a first frame of its own; passes that fill the cache "
            "are left alone",
        ),
        ModelSpec(
            transformer="SanaVideoTransformer3DModel",
            pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
            tokens=TokenSpec(stacks=("transformer_blocks",)),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(
                batched=("SanaVideoPipeline", "SanaImageToVideoPipeline"), float32=("vae",)
            ),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="SanaWMTransformer3DModel",
            pipelines=("SanaWMPipeline",),
            tokens=TokenSpec(stacks=("blocks",), width=("hidden_size",)),
            loop=LoopSpec(guidance="batched"),
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
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=0, latents="BFCHW"),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(
                batched=("CogVideoXPipeline",),
                fps=8,
                frame_step=8,  # an even number of latent frames decodes to 4 * n pixel frames
                needs={
                    "CogVideoXVideoToVideoPipeline": "video",
                    "CogVideoXFunControlPipeline": "control_video",
                },
            ),
            verified=("class", "pipeline", "caches", "compiled"),
            note="1.0 and 1.5",
        ),
        ModelSpec(
            transformer="ConsisIDTransformer3DModel",
            pipelines=("ConsisIDPipeline",),
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=0, latents="BFCHW"),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(fps=8, frame_step=8),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="HunyuanVideoTransformer3DModel",
            pipelines=(
                "HunyuanVideoPipeline",
                "HunyuanVideoImageToVideoPipeline",
                "HunyuanSkyreelsImageToVideoPipeline",
            ),
            tokens=TokenSpec(
                stacks=("transformer_blocks", "single_transformer_blocks"),
                video_output=0,
                lead_frames=lambda forward: int(
                    forward.config.get("image_condition_type") == "latent_concat"
                ),
            ),
            loading=LoadingSpec(batched=("HunyuanVideoPipeline",), fps=15),
            verified=("class", "pipeline", "caches", "compiled"),
            note="with latent_concat the image's frame is dropped from the video and not steered",
        ),
        ModelSpec(
            transformer="HunyuanVideoFramepackTransformer3DModel",
            pipelines=("HunyuanVideoFramepackPipeline",),
            tokens=TokenSpec(
                stacks=("transformer_blocks", "single_transformer_blocks"),
                video_output=0,
                place="tail",
            ),
            loading=LoadingSpec(fps=30, chunked=("HunyuanVideoFramepackPipeline",)),
            verified=("class", "pipeline"),
            note="each section is a loop with a first frame of its own; history is not steered",
        ),
        ModelSpec(
            transformer="HunyuanVideo15Transformer3DModel",
            pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=0),
            loading=LoadingSpec(fps=24),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="MotifVideoTransformer3DModel",
            pipelines=("MotifVideoPipeline", "MotifVideoImage2VideoPipeline"),
            tokens=TokenSpec(
                stacks=("transformer_blocks", "single_transformer_blocks"), video_output=0
            ),
            loading=LoadingSpec(batched=("MotifVideoPipeline",), fps=24),
            verified=("class", "pipeline"),
            note="the last num_decoder_layers blocks begin anew from the patches",
        ),
        ModelSpec(
            transformer="MochiTransformer3DModel",
            pipelines=("MochiPipeline",),
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=0),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(batched=("MochiPipeline",), fps=30),
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
            tokens=TokenSpec(
                stacks=("transformer_blocks",), latents="packed", grid=_ltx_grid, place="tail"
            ),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(
                batched=("LTXPipeline",), fps=24, needs={"LTXImageToVideoPipeline": "image"}
            ),
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
            tokens=TokenSpec(
                stacks=("transformer_blocks",), video_output=0, latents="packed", place="head"
            ),
            loop=LoopSpec(
                guidance="batched", contexts={"uncond_stg": "other", "uncond_modality": "other"}
            ),
            loading=LoadingSpec(
                batched=("LTX2Pipeline", "LTX2ConditionPipeline"),
                fps=24,
                needs={"LTX2ImageToVideoPipeline": "image"},
            ),
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
            tokens=TokenSpec(stacks=("transformer_blocks",)),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(fps=15, causal=False, float32=("vae",), tiled_vae=True),
            verified=("class", "pipeline"),
        ),
        ModelSpec(
            transformer="LatteTransformer3DModel",
            pipelines=("LattePipeline",),
            tokens=TokenSpec(
                stacks=("transformer_blocks", "temporal_transformer_blocks"),
                interleaved=True,
                axes={"transformer_blocks": "(BF)SD", "temporal_transformer_blocks": "(BS)FD"},
            ),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(fps=8, frame_step=1, causal=False),
            verified=("class", "pipeline", "caches"),
            note="spatial and temporal blocks take turns; each frame is a latent frame",
        ),
        ModelSpec(
            transformer="EasyAnimateTransformer3DModel",
            pipelines=("EasyAnimatePipeline", "EasyAnimateInpaintPipeline"),
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=0),
            loop=LoopSpec(guidance="batched"),
            loading=LoadingSpec(fps=8),
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
            tokens=TokenSpec(stacks=("transformer_blocks",)),
            loading=LoadingSpec(
                batched=("CosmosTextToWorldPipeline", "Cosmos2TextToImagePipeline"),
                chunked=("Cosmos2_5_TransferPipeline",),
                needs={
                    "CosmosVideoToWorldPipeline": "image or video",
                    "Cosmos2VideoToWorldPipeline": "image or video",
                },
            ),
            verified=("class", "pipeline"),
            note="given frames are the video's own first ones; its pipelines need torchvision for "
            "padding masks",
        ),
        ModelSpec(
            transformer="Cosmos3OmniTransformer",
            pipelines=("Cosmos3OmniPipeline",),
            tokens=TokenSpec(
                stacks=("layers",),
                video_output=1,
                axes={"layers": "ND"},
                grid=_cosmos3_grid,
                place="head",
                patch_field="latent_patch_size",
                width=("hidden_size",),
            ),
            loading=LoadingSpec(fps=24),
            verified=("class", "pipeline"),
            note="sound and action tokens come after the video's and are not steered",
        ),
        ModelSpec(
            transformer="Kandinsky5Transformer3DModel",
            pipelines=("Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline"),
            tokens=TokenSpec(
                stacks=("visual_transformer_blocks",),
                latents="BFHWC",
                tile=lambda forward: (
                    8 if (forward.inputs.get("sparse_params") or {}).get("to_fractal") else None
                ),
                width=("model_dim",),
            ),
            loading=LoadingSpec(batched=("Kandinsky5T2VPipeline",), fps=24),
            verified=("class", "pipeline", "caches"),
            note="dense and in tiles (NABLA); diffusers' FirstBlockCache fails on it by itself",
        ),
        ModelSpec(
            transformer="Kandinsky6Transformer3DModel",
            pipelines=("Kandinsky6TI2VAPipeline",),
            tokens=TokenSpec(
                stacks=("visual_transformer_blocks",),
                video_output=0,
                latents="BFHWC",
                trail_frames=lambda forward: int(
                    forward.inputs.get("visual_token_type_ids") is not None
                ),
                width=("model_dim",),
            ),
            loading=LoadingSpec(fps=24),
            verified=("class", "pipeline"),
            note="the reference image's frame, after the video, and audio are not steered",
        ),
        ModelSpec(
            transformer="Kandinsky6SRTransformer3DModel",
            pipelines=("Kandinsky6SRPipeline",),
            tokens=TokenSpec(
                stacks=("visual_transformer_blocks",),
                latents="BFHWC",
                tile=lambda forward: 8,
                width=("model_dim",),
            ),
            loading=LoadingSpec(fps=24),
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
            tokens=TokenSpec(stacks=("transformer_blocks",)),
            refusals=dict.fromkeys(
                ("steer", "record"),
                "it packs text, key frames, audio and video into one sequence, whose grid is only "
                "in position_ids, and only modular pipelines run it.",
            ),
        ),
        ModelSpec(
            transformer="FluxTransformer2DModel",
            pipelines=("FluxPipeline",),
            tokens=TokenSpec(
                stacks=("transformer_blocks", "single_transformer_blocks"),
                video_output=1,
                grid=_flux_grid,
                place="head",
            ),
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
        ModelSpec(
            transformer="SD3Transformer2DModel",
            pipelines=("StableDiffusion3Pipeline",),
            tokens=TokenSpec(stacks=("transformer_blocks",), video_output=1, grid=_sd3_grid),
            loop=LoopSpec(guidance="batched"),
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
        ModelSpec(
            transformer="QwenImageTransformer2DModel",
            pipelines=("QwenImagePipeline",),
            tokens=TokenSpec(
                stacks=("transformer_blocks",), video_output=1, grid=_qwen_grid, place="head"
            ),
            refusals={"steer": _IMAGE},
            verified=("class", "pipeline"),
            note="for recording only",
        ),
    )
}
