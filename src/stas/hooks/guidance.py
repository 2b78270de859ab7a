"""Detail Guidance (arXiv 2510.11538) as a guider of diffusers' modular pipelines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any, ClassVar

from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput, rescale_noise_cfg
from torch import Tensor, nn

from stas.checks import expect, number
from stas.hooks.loop import OwnLoop
from stas.hooks.steer import TransformerSteering, plan
from stas.hooks.targets import find_transformers
from stas.method.config import BRANCHES, STASConfig
from stas.method.presets import preset
from stas.method.window import StepClock

_WEAK = "pred_cond_weak"  # how the weak forward's prediction is named


class _WeakForward(OwnLoop):
    """The one forward that is disrupted: it is made by the frame that asked for it.

    That is seen on the stack: after an interrupt the hooks may still be there, and another thread
    may run the same transformer.
    """

    def __init__(self, config: STASConfig) -> None:
        super().__init__(StepClock(config.window))
        self.caller: FrameType | None = None

    def owns_forward(self) -> bool:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.caller:
            frame = frame.f_back
        return frame is not None


class _Disruption(TransformerSteering):
    """What makes a transformer the weak model while attached; beside a steering it acts last."""

    hook_name: ClassVar[str] = "stas_guidance"


class DetailGuidance(ClassifierFreeGuidance):  # type: ignore[misc]  # diffusers has no types
    """Guide away from the same model with its massive activations disrupted (Detail Guidance).

    Gan et al., "Massive Activations are the Key to Local Detail Synthesis in Diffusion
    Transformers", arXiv 2510.11538: without its massive activations a model loses local detail
    and keeps its content, so the difference of the two predictions is a direction of detail.

        D(c) + lambda (D(c) - D()) + w (D(c) - D_m(c))

    D_m has the massive dimensions of the hidden states set to zero after block m, at all visual
    tokens. lambda is `guidance_scale` - 1 (or `guidance_scale`, in the original formulation), w is
    `detail_guidance_scale`. Both terms can be used alone.

    It costs one more forward in each step of the disruption's window: half as many again as
    classifier-free guidance makes, where STAS makes none. That forward alone is disrupted; what
    the model computes in all others, and after it, is the same bit for bit. Beside `stas.steer`
    the weak model is the steered one, disrupted. Dimensions that are not named are those of the
    model's profile, else they are detected: then the first weak forward is read and not disrupted.

    The formula and the zeros are the paper's, as summaries of it report; it was shown on image
    models (SD3, SD3.5, Flux), and m and w vary with the model. The middle block, w = 1 and the
    whole of sampling are [our choice].

    Args:
        guidance_scale: That of classifier-free guidance; 1 leaves it out (0 in the original
            formulation).
        detail_guidance_scale: w, finite and not negative; 0 is plain classifier-free guidance, bit
            for bit, and makes no weak forward.
        disruption: How the weak model is disrupted, and in which steps (`start` and `stop`): a
            STASConfig, or its `to_dict`. None is the preset "zero" in all steps.
        guidance_rescale: As of diffusers' ClassifierFreeGuidance, which the next four are too.
        use_original_formulation: Whether guidance starts from the cond prediction.
        start: First fraction of the steps with classifier-free guidance.
        stop: Fraction at which it ends.
        enabled: Whether there is any guidance.

    Raises:
        TypeError: `disruption` is neither, or a number is none.
        ValueError: A value is out of its range, or `disruption` names one branch of guidance: the
            weak forward is always of cond.

    Example:
        >>> guider = DetailGuidance(guidance_scale=5.0, disruption=preset("mean"))
        >>> guider.disruption.op, guider.num_conditions
        ('mean', 3)
        >>> DetailGuidance(guidance_scale=5.0, detail_guidance_scale=0.0).num_conditions
        2
    """

    _input_predictions: ClassVar[list[str]] = ["pred_cond", "pred_uncond", _WEAK]

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers has no types
    def __init__(
        self,
        *,  # by position, diffusers' `new` would take them for defaults
        guidance_scale: float = 7.5,
        detail_guidance_scale: float = 1.0,
        disruption: STASConfig | Mapping[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            use_original_formulation=use_original_formulation,
            start=start,
            stop=stop,
            enabled=enabled,
        )
        self.detail_guidance_scale = number("detail_guidance_scale", detail_guidance_scale)
        expect(
            0.0 <= self.detail_guidance_scale < float("inf"),
            "detail_guidance_scale must be a finite number, 0 or more, but got "
            f"{detail_guidance_scale}",
        )
        if disruption is None:
            disruption = replace(preset("zero"), stop=1.0)
        elif isinstance(disruption, Mapping):
            disruption = STASConfig.from_dict(disruption)
        elif not isinstance(disruption, STASConfig):
            raise TypeError(
                "disruption must be a stas.STASConfig, its to_dict or None, but got "
                f"{type(disruption).__name__}."
            )
        expect(
            disruption.branches == BRANCHES,
            "disruption is of the weak forward, which is always of cond: leave branches out, but "
            f"got {disruption.branches}",
        )
        self.disruption = disruption
        self.register_to_config(disruption=disruption)  # so that a file says the default, too
        self._weak: tuple[_Disruption, _WeakForward] | None = None  # of the last denoiser

    @property
    def dims(self) -> tuple[int, ...] | None:
        """The disrupted dimensions of the last denoiser; None until they are known."""
        return self._weak and self._weak[0].steerer.dims.numbers

    def set_state(self, step: int, num_inference_steps: int, timestep: Tensor) -> None:
        """A denoising step begins."""
        self._release()  # what a weak forward that was interrupted left behind
        super().set_state(step, num_inference_steps, timestep)

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Disrupt the next forward if it is the weak one."""
        super().prepare_models(denoiser)
        if not self._is_weak():
            return
        ((name, (transformer, spec)),) = find_transformers(denoiser, "steer").items()
        if self._weak is None or self._weak[0].transformer is not transformer:
            loop = _WeakForward(self.disruption)
            part = plan(_Disruption, name, transformer, spec, self.disruption, loop)
            self._weak = part, loop
        part, loop = self._weak
        loop.caller = sys._getframe(1)
        part.attach()

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """The weak forward is over: the model is as it was."""
        if self._is_weak():
            self._release()

    def _release(self) -> None:
        if self._weak is not None and self._weak[1].caller is not None:
            part, loop = self._weak
            part.detach()
            loop.caller = None

    def prepare_inputs(self, data: Any) -> list[Any]:
        """The inputs of a step's forwards, in order."""
        return [self._prepare_batch(data, index, name) for index, name in self._forwards()]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> list[Any]:
        """The inputs of a step's forwards, in order."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, index, name)
            for index, name in self._forwards()
        ]

    def forward(
        self,
        pred_cond: Tensor,
        pred_uncond: Tensor | None = None,
        pred_cond_weak: Tensor | None = None,
    ) -> GuiderOutput:
        """The guided prediction: the equation of the class."""
        if pred_cond_weak is None:
            return super().forward(pred_cond, pred_uncond)
        pred = pred_cond
        if pred_uncond is not None:
            origin = pred_cond if self.use_original_formulation else pred_uncond
            pred = origin + self.guidance_scale * (pred_cond - pred_uncond)
        pred = pred + self.detail_guidance_scale * (pred_cond - pred_cond_weak)
        if self.guidance_rescale > 0.0:
            pred = rescale_noise_cfg(pred, pred_cond, self.guidance_rescale)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    @property
    def is_conditional(self) -> bool:
        """Whether the present forward has the prompt."""
        return self._present() != "pred_uncond"

    @property
    def num_conditions(self) -> int:
        """How many forwards the present step has."""
        return len(self._forwards())

    def _forwards(self) -> list[tuple[int, str]]:
        """The forwards of the present step: which of a pair of inputs each has, and its name."""
        forwards = [(0, "pred_cond")]
        if self._is_cfg_enabled():
            forwards.append((1, "pred_uncond"))
        if self._is_detail_enabled():
            forwards.append((0, _WEAK))
        return forwards

    def _is_detail_enabled(self) -> bool:
        if not self._enabled or self.detail_guidance_scale == 0.0:
            return False
        steps = self._num_inference_steps
        return steps is None or self.disruption.window.contains(self._step, steps)

    def _present(self) -> str:
        forwards = self._forwards()
        return forwards[int(self._count_prepared) - 1][1]

    def _is_weak(self) -> bool:
        return self._present() == _WEAK
