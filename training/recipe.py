"""The numbers of a training run, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from training.clips import Mix

MIX = Mix(two=0.3, patterned=0.3, placed=0.25, rotating=0.1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How one network is optimised: AdamW, warm-up, a flat part, a fall to zero, an average.

    Args:
        steps: Optimiser steps.
        batch: Samples per step, over all processes.
        learning_rate: Its value on the flat part.
        weight_decay: On matrices and kernels; not on biases, norms and tables.
        warmup: Steps of linear warm-up.
        flat: Share of the steps after which the learning rate falls linearly to zero.
        average: Decay per step of the exponential moving average that is kept in the end.
        bf16: Whether a GPU computes in bfloat16 (autocast); a CPU never does.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 100
    flat: float = 0.4
    average: float = 0.999
    bf16: bool = True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what is trained.

    Args:
        size: Side of the clips in pixels, a multiple of 16.
        frames: Pixel frames of a clip, 1 + 4 * n.
        mix: What share of clips is out of the ordinary.
        vae, classifier, transformer: How each is optimised.
        vae_width: Base width of the VAE.
        crop: Side of the crops that the VAE's first part is trained on.
        clips: Clips encoded for the transformer.
        heads, layers, ffn: The transformer's heads of 32, blocks and feed-forward width.
        cross_attn_norm: Whether the transformer norms the input of its cross-attention.
        qk_norm: Whether it norms queries and keys of its self-attention. diffusers' class always
            does, so that a model without can't be exported: for `training.ablations` alone.
        shift: Shift of the training noise levels to higher noise, as in sampling; 1 is none.
        videos: Held-out captions on which the finished model is evaluated.
        seed: Of weights and data.
    """

    size: int = 128
    frames: int = 17
    mix: Mix = MIX
    vae: Stage
    classifier: Stage
    transformer: Stage
    vae_width: int = 24
    crop: int = 64
    clips: int
    heads: int = 8
    layers: int = 8
    ffn: int = 768
    cross_attn_norm: bool = True
    qk_norm: bool = True
    shift: float = 1.0
    videos: int
    seed: int = 0

    def with_values(self, assignments: list[str]) -> Recipe:
        """The recipe with fields replaced, each given as "field=value" or "stage.field=value"."""
        recipe = self
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            owner, _, name = path.rpartition(".")
            target: Any = getattr(recipe, owner, None) if owner else recipe
            known = {field.name for field in fields(target)} if target is not None else set()
            if not equals or name not in known or is_dataclass(getattr(target, name)):
                raise ValueError(
                    f"{assignment!r} sets no number of the recipe. Write field=value with a field "
                    f"of {', '.join(f.name for f in fields(self))}, or, for a stage, "
                    "transformer.steps=1000."
                )
            old = getattr(target, name)
            value = text.lower() in ("1", "true") if isinstance(old, bool) else type(old)(text)
            changed = replace(target, **{name: value})
            recipe = replace(recipe, **{owner: changed}) if owner else changed
        return recipe


RECIPES = {
    # What the shipped weights were trained with; minutes on one H100.
    "gpu": Recipe(
        vae=Stage(steps=6000, batch=24, learning_rate=2e-3, weight_decay=1e-4),
        classifier=Stage(steps=2500, batch=64, learning_rate=2e-3, weight_decay=1e-2),
        transformer=Stage(steps=12000, batch=256, learning_rate=2e-3),
        clips=80000,
        videos=256,
    ),
    # The same model with less of everything, for hours on CPU cores.
    "cpu": Recipe(
        vae=Stage(steps=4000, batch=4, learning_rate=2e-3, weight_decay=1e-4, average=0.99),
        classifier=Stage(steps=1500, batch=16, learning_rate=1e-3, weight_decay=1e-2),
        transformer=Stage(steps=12000, batch=16, learning_rate=1.5e-3, average=0.995),
        clips=8000,
        videos=64,
    ),
    # Runs every line in seconds, learns nothing.
    "smoke": Recipe(
        size=32,
        frames=5,
        vae=Stage(steps=3, batch=2, learning_rate=1e-3),
        classifier=Stage(steps=3, batch=2, learning_rate=1e-3),
        transformer=Stage(steps=4, batch=2, learning_rate=1e-3),
        vae_width=4,
        crop=16,
        clips=6,
        heads=1,
        layers=2,
        ffn=32,
        videos=2,
    ),
}
