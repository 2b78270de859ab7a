"""The paper's interventions by name: one preset for each panel that the paper shows.

Each is a STASConfig and nothing more, so `stas.steer(pipe, preset("zero"))` does what the panel
shows on any supported model. Their names and all that `choice` says are [our choice].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stas.method.config import REGIONS, STASConfig


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """One intervention on massive activations (arXiv 2603.17825).

    Args:
        config: How to steer.
        figure: Where the paper shows it.
        paper: What the paper's public text says of it, or what summaries of the paper report.
        choice: What that leaves open and we chose, beside the defaults of STASConfig.
    """

    config: STASConfig
    figure: str
    paper: str
    choice: str


AMPLIFIED = 2.0  # far enough from 1 to be seen, as in a figure


INTERVENTIONS: Mapping[str, Intervention] = MappingProxyType(
    {
        "zero": Intervention(
            config=STASConfig(op="zero", regions=REGIONS),
            figure="Fig. 3, disrupted",
            paper="Disrupting massive activations, here by setting them to zero, degrades the "
            "first frame.",
            choice="At every visual token, in the steps that STAS steers.",
        ),
        "mean": Intervention(
            config=STASConfig(op="mean", regions=REGIONS),
            figure="Fig. 3, disrupted",
            paper="Disrupting massive activations, here by setting them to their mean, degrades "
            "the first frame.",
            choice="At every visual token, with the mean over a sample's visual tokens, per "
            "dimension, in the steps that STAS steers.",
        ),
        "scale-all": Intervention(
            config=STASConfig(op="scale", regions=REGIONS, scale=AMPLIFIED),
            figure="Fig. 3, amplified at all tokens",
            paper="Amplifying massive activations at all tokens degrades the first frame.",
            choice=f"Amplified {AMPLIFIED:g} times, in the steps that STAS steers.",
        ),
        "scale-first-frame": Intervention(
            config=STASConfig(op="scale", regions=("first_frame",), scale=AMPLIFIED),
            figure="Fig. 3, amplified at first-frame tokens, one of two ways",
            paper="Amplifying massive activations only at the tokens of the first latent frame "
            "improves the first frame.",
            choice=f"Amplified {AMPLIFIED:g} times, in the steps that STAS steers. That one of the "
            "two ways multiplies the values is a guess.",
        ),
        "max-first-frame": Intervention(
            config=STASConfig(op="max", regions=("first_frame",)),
            figure="Fig. 3, amplified at first-frame tokens, one of two ways",
            paper="Amplifying massive activations only at the tokens of the first latent frame "
            "improves the first frame.",
            choice="By the rule of STAS, at scale 1. That this is one of the two ways is a guess.",
        ),
        "boundary": Intervention(
            config=STASConfig(op="max", regions=("boundary",)),
            figure="Fig. 4",
            paper="Amplifying massive activations at boundary tokens, the head 8 % and tail 8 % of "
            "each latent frame, lifts the dips of consecutive-frame similarity at cross-chunk "
            "transitions.",
            choice="By the rule of STAS, at scale 1, in the latent frames after the first.",
        ),
        "stas": Intervention(
            config=STASConfig(op="max", regions=("first_frame", "boundary")),
            figure="Fig. 5 and the tables",
            paper="STAS: first-frame and boundary tokens are set to the maximum magnitude, with "
            "their sign kept, in the first steps of denoising (20 of 50 as summaries report).",
            choice="Scale 1: the paper's value of alpha is not in its public text.",
        ),
    }
)


def preset(name: str) -> STASConfig:
    """The config of a named intervention.

    Args:
        name: One of `INTERVENTIONS`: "zero" and "mean" disrupt massive activations, "scale-all"
            and "scale-first-frame" multiply them, "max-first-frame" and "boundary" apply the rule
            of STAS to one region alone, and "stas" is the method as a whole.

    Returns:
        The config; `dataclasses.replace` changes fields of it.

    Raises:
        ValueError: There is no such name; the message lists all.

    Example:
        >>> preset("boundary").regions
        ('boundary',)
        >>> preset("stas") == STASConfig()
        True
    """
    if name not in INTERVENTIONS:
        raise ValueError(f"There is no intervention {name!r}. Known: {', '.join(INTERVENTIONS)}.")
    return INTERVENTIONS[name].config
