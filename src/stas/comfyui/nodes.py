"""The nodes. This module alone imports ComfyUI, which loads it through the pack's `__init__`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io

from stas.comfyui.attach import Attachment
from stas.comfyui.steer import LookingSampling, profile_dims, steer_model, transformer_of
from stas.comfyui.table import find_model
from stas.comfyui.text import blocks_of, dims_of, numbers
from stas.files import whole_file
from stas.method.config import BRANCHES, OPS, REFERENCES, REGIONS, STASConfig

CATEGORY = "advanced/guidance"
DEFAULT = STASConfig()
Recording = io.Custom("STAS_RECORDING")
BLOCKS_TIP = "middle, all, or numbers and ranges such as 12, 20-23; -1 is the last block."


class STASSteer(io.ComfyNode):
    """Steers the samplings of the model that it gives."""

    @classmethod
    def define_schema(cls) -> Any:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="STASSteer",
            display_name="STAS Steer",
            category=CATEGORY,
            description="Without training and at no extra cost: sets the few huge "
            "activations of a video model at the first frame and at the ends of each latent frame, "
            "in the first part of sampling (arXiv 2603.17825).",
            inputs=[
                io.Model.Input("model", tooltip="A video model. Wan2.2's two experts: one each."),
                io.String.Input(
                    "dims",
                    default="auto",
                    tooltip="The model's massive dimensions. auto finds them in the first step of "
                    "each sampling, which is then not steered. profile takes those measured before "
                    "for a model of this size. Or numbers such as 1188: STAS Find Dims gives them.",
                ),
                io.String.Input("blocks", default=str(DEFAULT.blocks), tooltip=BLOCKS_TIP),
                io.Float.Input(
                    "scale",
                    default=DEFAULT.scale,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How strong: a multiple of the largest value found. Try 0.8 to 1.5.",
                ),
                io.Float.Input(
                    "boundary",
                    default=DEFAULT.boundary,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Which share of each latent frame counts as its head, and as its tail.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULT.start,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in sampling steering begins: 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=DEFAULT.stop,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where it ends: 0.4 steers the first 8 of 20 steps.",
                ),
                _advanced(
                    io.Combo.Input(
                        "branches",
                        options=["both", *BRANCHES],
                        default="both",
                        tooltip="Which side of CFG is steered: the prompt's (cond), the negative's "
                        "(uncond), or both.",
                        optional=True,
                    )
                ),
                _advanced(
                    io.Combo.Input(
                        "op",
                        options=list(OPS),
                        default=DEFAULT.op,
                        tooltip="What is written. max is STAS; scale multiplies the values; zero "
                        "and mean switch them off, to see what they do.",
                        optional=True,
                    )
                ),
                _advanced(
                    io.String.Input(
                        "regions",
                        default=",".join(DEFAULT.regions),
                        tooltip=f"Where: any of {', '.join(REGIONS)}, with commas.",
                        optional=True,
                    )
                ),
                _advanced(
                    io.Combo.Input(
                        "reference",
                        options=list(REFERENCES),
                        default=DEFAULT.reference,
                        tooltip="The largest value of each dimension (dim), or of all (global).",
                        optional=True,
                    )
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def validate_inputs(cls, dims: str | None, blocks: str | None) -> bool | str:
        """Whether the text can be read; a value that comes over a wire is None here."""
        try:
            if dims is not None:
                dims_of(dims)
            if blocks is not None:
                blocks_of("blocks", blocks)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        dims: str,
        blocks: str,
        scale: float,
        boundary: float,
        start_percent: float,
        end_percent: float,
        branches: str = "both",
        op: str = DEFAULT.op,
        regions: str = ",".join(DEFAULT.regions),
        reference: str = DEFAULT.reference,
    ) -> Any:
        """The steered model."""
        if end_percent <= start_percent:
            raise ValueError(
                f"end_percent must be larger than start_percent, but got {end_percent:g} and "
                f"{start_percent:g}. To steer nothing, bypass the node."
            )
        config = STASConfig.from_dict(
            {
                "blocks": blocks_of("blocks", blocks),
                "scale": scale,
                "boundary": boundary,
                "start": start_percent,
                "stop": end_percent,
                "branches": BRANCHES if branches == "both" else (branches,),
                "op": op,
                "regions": [region.strip() for region in regions.split(",") if region.strip()],
                "reference": reference,
            }
        )
        steered = dims_of(dims)
        if steered is None:
            transformer = transformer_of(model)
            steered = profile_dims(find_model(transformer), transformer)
        return io.NodeOutput(steer_model(model, config, steered))


class STASFindDims(io.ComfyNode):
    """Finds a model's massive dimensions in one forward."""

    @classmethod
    def define_schema(cls) -> Any:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="STASFindDims",
            display_name="STAS Find Dims",
            category=CATEGORY,
            description="Finds a model's massive dimensions in one forward, for dims of STAS "
            "Steer. With few steps (distilled models) no step of sampling is lost to it.",
            inputs=[
                io.Model.Input("model", tooltip="A video model, steered or not."),
                io.Conditioning.Input("positive", tooltip="The prompt; any will do."),
                io.Latent.Input("latent", tooltip="An empty latent of the size to be sampled."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Of the noise that the model is given.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="dims", tooltip="For dims of STAS Steer."),
                io.String.Output(display_name="report", tooltip="The strongest, in words."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, latent: dict[str, Any], seed: int) -> Any:
        """The dimensions and a report."""
        samples = latent_of(model, latent)
        made: list[LookingSampling] = []

        def start(attachment: Attachment) -> LookingSampling:
            made.append(LookingSampling(attachment))
            return made[-1]

        attachment = Attachment("stas", transformer_of(model), "all", start)
        sampling = model.get_model_object("model_sampling")
        comfy.sample.sample_custom(
            attachment.attach(model),
            comfy.sample.prepare_noise(samples, seed),
            1.0,
            comfy.samplers.sampler_object("euler"),
            torch.tensor([float(sampling.sigma_max), 0.0]),
            positive,
            positive,
            samples,
            noise_mask=latent.get("noise_mask"),
            disable_pbar=True,
            seed=seed,
        )
        return io.NodeOutput(*made[0].report())


class STASRecord(io.ComfyNode):
    """Records the samplings of the model that it gives."""

    @classmethod
    def define_schema(cls) -> Any:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="STASRecord",
            display_name="STAS Record",
            category=CATEGORY,
            description="Records the activations of a video model while it samples, changing "
            "nothing. STAS Plots shows them.",
            inputs=[
                io.Model.Input("model", tooltip="Steered or not: what the blocks then give."),
                io.String.Input("blocks", default="all", tooltip=BLOCKS_TIP),
                io.String.Input(
                    "map_blocks",
                    default="middle",
                    tooltip="Blocks of which maps over the picture are kept.",
                ),
                io.String.Input(
                    "map_dims",
                    default="",
                    tooltip="Dimensions of these maps; empty for the strongest.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="stas/activations",
                    tooltip="Where in the output folder STAS Plots writes the statistics.",
                ),
            ],
            outputs=[io.Model.Output(), Recording.Output(display_name="recording")],
        )

    @classmethod
    def validate_inputs(
        cls, blocks: str | None, map_blocks: str | None, map_dims: str | None
    ) -> bool | str:
        """Whether the text can be read."""
        try:
            for name, text in (("blocks", blocks), ("map_blocks", map_blocks)):
                if text is not None:
                    blocks_of(name, text)
            if map_dims:
                numbers("map_dims", map_dims)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, blocks: str, map_blocks: str, map_dims: str, filename_prefix: str
    ) -> Any:
        """The recorded model, and what will be recorded."""
        from stas.comfyui.record import record_model  # matplotlib: not at ComfyUI's start

        recorded, recording = record_model(
            model,
            blocks=blocks_of("blocks", blocks),
            map_blocks=blocks_of("map_blocks", map_blocks),
            map_dims=STASConfig(dims=numbers("map_dims", map_dims)).dims or ()
            if map_dims.strip()
            else (),
        )
        recording.filename_prefix = filename_prefix
        return io.NodeOutput(recorded, recording)


class STASPlots(io.ComfyNode):
    """Shows what was recorded, and writes it to a file."""

    @classmethod
    def define_schema(cls) -> Any:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="STASPlots",
            display_name="STAS Plots",
            category=CATEGORY,
            description="Pictures of what STAS Record recorded: where in the picture the strongest "
            "dimensions are, how strong they are, and how that changes over the steps.",
            inputs=[
                Recording.Input("recording"),
                io.MultiType.Input(
                    "after",
                    types=[io.Latent, io.Image],
                    tooltip="The sampler's latent, or the images, so that sampling ends first.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.String.Output(display_name="path", tooltip="The statistics, as safetensors."),
            ],
        )

    @classmethod
    def execute(cls, recording: Any, after: Any) -> Any:
        """The pictures, and the path of the statistics."""
        from stas.comfyui.record import pictures

        stats = recording.stats
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            recording.filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        with whole_file(path) as temporary:
            stats.save(temporary)
        return io.NodeOutput(pictures(stats, recording.name), str(path))


def _advanced(widget: Any) -> Any:
    """A widget that the front end may fold away; older versions take that in no argument."""
    widget.extra_dict["advanced"] = True
    return widget


def latent_of(model: Any, latent: dict[str, Any]) -> Any:
    """The samples of a latent, as samplers take them.

    Raises:
        ValueError: They are of another model.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    wanted = model.get_model_object("latent_format").latent_channels
    if not samples.is_nested and (samples.ndim != 5 or samples.shape[1] != wanted):
        raise ValueError(
            f"This latent is of another model: {type(model.model).__name__} takes a video of "
            f"{wanted} channels (batch, {wanted}, frames, height, width), but got "
            f"{tuple(samples.shape)}. Use the empty latent node of this model."
        )
    return samples


class STASExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its nodes."""
        return [STASSteer, STASFindDims, STASRecord, STASPlots]


async def comfy_entrypoint() -> STASExtension:
    """What ComfyUI calls."""
    return STASExtension()
