"""Measures by image encoders' features."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError

from stas.measures.frames import Values
from stas.media.video import Frames

AESTHETIC_CLIP = "openai/clip-vit-large-patch14"


AESTHETIC_HEAD = (
    "sa_0_4_vit_l_14_linear.pth of https://github.com/LAION-AI/aesthetic-predictor, fitted on "
    f"{AESTHETIC_CLIP}"
)


def consecutive_similarity(features: Any) -> Values:
    """Cosine similarity of consecutive frames' features (T, D): (T - 1,), the paper's Fig. 4."""
    unit = _unit(features, fewest=2)
    return cast(Values, (unit[:-1] * unit[1:]).sum(1))


def first_frame_similarity(features: Any) -> Values:
    """Cosine similarity of frames 1, 2, ... to frame 0, from features (T, D): (T - 1,)."""
    unit = _unit(features, fewest=2)
    return cast(Values, unit[1:] @ unit[0])


def aesthetic_score(features: Any, weight: Any, bias: float) -> Values:
    """LAION's aesthetic score over 10, as VBench has it: linear in features of unit length.

    Args:
        features: (T, D), CLIP's projected embedding of each frame.
        weight: (D,), the head's.
        bias: The head's.

    Returns:
        (T,), higher is more pleasing: predicted are people's ratings of 1 to 10, over 10; not
        clipped to that range.

    Example:
        >>> aesthetic_score([[3, 4], [0, 2]], weight=[5, 5], bias=1)
        array([0.8, 0.6])
    """
    return cast(Values, (_unit(features, fewest=1) @ np.asarray(weight) + bias) / 10)


def _unit(features: Any, *, fewest: int) -> Values:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < fewest:
        raise ValueError(f"Features are (frames >= {fewest}, width), but got shape {values.shape}.")
    return cast(Values, values / np.linalg.norm(values, axis=1, keepdims=True))


@dataclass(frozen=True)
class ImageEncoder:
    """A pretrained image encoder that gives each frame one feature vector.

    Made by `load_encoder`. Features are the projected embedding for CLIP, and the last layer's
    class token for all others (DINO, DINOv2).
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    def features(self, frames: Frames, *, batch: int = 16) -> Values:
        """Features of frames (T, H, W, 3), uint8: (T, D), not normalised."""
        import torch
        from PIL import Image

        rows = []
        for start in range(0, len(frames), batch):
            pictures = [Image.fromarray(frame) for frame in frames[start : start + batch]]
            pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.model.device, self.model.dtype)
            with torch.no_grad():
                if hasattr(self.model, "get_image_features"):
                    found = self.model.get_image_features(pixel_values=pixels)
                    # transformers 5 returns an output object, 4 the tensor.
                    found = getattr(found, "pooler_output", found)
                else:
                    found = self.model(pixel_values=pixels).last_hidden_state[:, 0]
            rows.append(found.double().cpu().numpy())
        return np.concatenate(rows)


def load_encoder(source: str, *, device: str = "cpu") -> ImageEncoder:
    """Load an image encoder, from a folder, transformers' cache or the hub.

    The paper shows DINO and CLIP similarities and its text does not name checkpoints; VBench uses
    DINO ViT-B/16 (`facebook/dino-vitb16`) and CLIP ViT-B/32 (`openai/clip-vit-base-patch32`).
    Frames are resized and cropped as the checkpoint's own preprocessor says, so numbers are near
    VBench's and not equal to them.

    Args:
        source: Hub id or folder of a ViT (DINO), DINOv2 or CLIP model, with its
            `preprocessor_config.json`.
        device: Where it runs.

    Raises:
        OSError: It is not here and can't be downloaded; the message says how to get it.
        ValueError: It is no image encoder, or its weights are cut short.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        model = AutoModel.from_pretrained(source).to(device).eval()
        if not hasattr(model.config, "vision_config") and not hasattr(model.config, "patch_size"):
            raise ValueError(
                f"{source!r} is a {type(model).__name__}, and no image encoder: expected a DINO, "
                "DINOv2 or CLIP model."
            )
        processor = AutoImageProcessor.from_pretrained(source)
    except OSError as error:
        raise OSError(
            f"The image encoder {source!r} is not on this machine and can't be downloaded: "
            f"{str(error).splitlines()[0]} Download it where there is a network, by `hf download "
            f"{source}`, and copy the cache (HF_HOME), or give a folder that holds it."
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {source!r} are cut short or damaged ({error}): download them again."
        ) from error
    return ImageEncoder(source.rstrip("/").rpartition("/")[2], model, processor)


@dataclass(frozen=True)
class AestheticScorer:
    """LAION's aesthetic predictor: a CLIP and a linear head. Made by `load_aesthetic`.

    Args:
        encoder: The CLIP.
        weight: (D,), the head's; D is the width of CLIP's projected embedding.
        bias: The head's.
    """

    encoder: ImageEncoder
    weight: Values = field(repr=False)
    bias: float

    def scores(self, frames: Frames, *, batch: int = 16) -> Values:
        """`aesthetic_score` of frames (T, H, W, 3), uint8: (T,)."""
        return aesthetic_score(self.encoder.features(frames, batch=batch), self.weight, self.bias)


def load_aesthetic(
    head: str | os.PathLike[str], clip: str = AESTHETIC_CLIP, *, device: str = "cpu"
) -> AestheticScorer:
    """Load LAION's aesthetic predictor, from the file of its linear head and a CLIP model.

    VBench's "aesthetic quality" of a video is the mean over its frames. VBench resizes without
    antialiasing and, on a GPU, runs CLIP in half precision; here frames are resized and cropped as
    the checkpoint's own preprocessor says [our choice], which is how the predictor's authors use
    it, so numbers are near VBench's and not equal to them.

    Args:
        head: `sa_0_4_vit_l_14_linear.pth`, to be downloaded from
            https://github.com/LAION-AI/aesthetic-predictor; that or a .safetensors file holds
            `weight` (1, D) and `bias` (1,).
        clip: Hub id or folder of the CLIP that the head was fitted on, as for `load_encoder`.
        device: Where CLIP runs.

    Raises:
        OSError: The head is not there, or CLIP is not and can't be downloaded; the message says
            how to get it.
        ValueError: The head is no such head, cut short, or of another width than CLIP's
            embedding; or `clip` is no CLIP model, or its weights are cut short.
    """
    weight, bias = _read_head(Path(head))
    encoder = load_encoder(clip, device=device)
    config = encoder.model.config
    if config.model_type != "clip":
        raise ValueError(
            f"{clip!r} is a {type(encoder.model).__name__}, and no CLIP model: expected the one "
            f"that the aesthetic head was fitted on, as in {AESTHETIC_HEAD}."
        )
    if len(weight) != config.projection_dim:
        raise ValueError(
            f"The aesthetic head {str(head)!r} takes {len(weight)} features, but {clip!r} gives "
            f"{config.projection_dim}: expected the CLIP that the head was fitted on, as in "
            f"{AESTHETIC_HEAD}."
        )
    return AestheticScorer(encoder, weight, bias)


def _read_head(path: Path) -> tuple[Values, float]:
    """Weight (D,) and bias of a linear head."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r}. Download an aesthetic head: {AESTHETIC_HEAD}."
        )
    try:
        if path.suffix == ".safetensors":
            saved = load_file(path)
        else:
            saved = torch.load(path, map_location="cpu", weights_only=True)
    # Of torch, pickle, struct and safetensors: they share no other class.
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} does not hold weights, or is cut short. Download the file itself, and "
            f"not GitHub's page about it: {AESTHETIC_HEAD}."
        ) from error
    found = saved if isinstance(saved, dict) else {}
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
    if shapes != {"weight": (1, *shapes.get("weight", ())[-1:]), "bias": (1,)}:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{str(path)!r} is no aesthetic head: expected weight (1, D) and bias (1,), as in "
            f"{AESTHETIC_HEAD}, but got "
            f"{shorten(listed, 200, placeholder='...') or f'a {type(saved).__name__}'}."
        )
    weight, bias = found["weight"][0].double().numpy(), found["bias"].item()
    if not np.isfinite([*weight, bias]).all():
        raise ValueError(
            f"The aesthetic head {str(path)!r} holds NaN or infinite numbers. Download it anew: "
            f"{AESTHETIC_HEAD}."
        )
    return weight, bias
