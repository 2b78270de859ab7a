"""Which pipeline is loaded, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    import torch

from stas.assets import BUNDLED
from stas.checks import DType, Offload, dtype_name, one_of

LORA_EXPECTED = (
    "Expected is a .safetensors file of LoRA weights for this model, a folder that holds one, or a "
    "hub id (OWNER/NAME), for which the network is needed: without it, give the downloaded file."
)


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Which pipeline is loaded, and how.

    Args:
        model: "bundled", a folder in diffusers' format, or a hub id.
        revision: Branch, tag or commit of a hub id.
        device: "auto" takes an accelerator if there is one, else the CPU; or what torch accepts.
        dtype: "auto" is bfloat16 on an accelerator and float32 on the CPU; also by its short name,
            as in "bf16", or as `torch.bfloat16`. Components that
            diffusers says to keep in float32 (Wan's VAE) are kept there.
        offload: "model" keeps one component on the device at a time, "sequential" one layer.
        loras: Files, folders or hub ids of LoRA weights, with the weight of each.

    Example:
        >>> PipelineOptions(device="cpu").resolved().dtype
        'float32'
    """

    model: str = BUNDLED
    revision: str | None = None
    device: str = "auto"
    dtype: DType = "auto"
    offload: Offload = "none"
    loras: Mapping[str, float] = field(default_factory=dict)

    @property
    def wants_gpu(self) -> bool | None:
        """Whether it is for an NVIDIA or AMD GPU; None where that depends on the machine."""
        return None if self.device == "auto" else self.device.startswith("cuda")

    def resolved(self) -> PipelineOptions:
        """The same with device, dtype and paths decided for this machine, and all checked.

        Raises:
            ValueError: An option that doesn't exist, or that doesn't fit this machine.
            FileNotFoundError: LoRA weights that are neither here nor a hub id.
        """
        given = dtype_name(self.dtype)
        one_of("offload", self.offload, get_args(Offload))
        device = _device(self.device)
        if self.offload != "none" and device.type == "cpu":
            raise ValueError(
                f"offload={self.offload!r} moves weights between an accelerator and the CPU, but "
                'the device is the CPU. Use offload="none".'
            )
        if self.loras and find_module("peft") is None:
            raise ValueError("LoRA weights need the package peft: pip install 'stas[lora]'.")
        for source in self.loras:
            _check_lora_exists(source)
        local = self.model == BUNDLED or looks_like_a_folder(self.model)
        if self.revision is not None and local:
            raise ValueError(f"revision is for hub ids, but the model is {self.model!r}.")
        on_cpu: DType = "float32" if device.type == "cpu" else "bfloat16"
        dtype = on_cpu if given == "auto" else given
        return replace(
            self,
            model=self.model if self.model == BUNDLED else absolute(self.model),
            loras={absolute(source): weight for source, weight in self.loras.items()},
            device=str(device),
            dtype=dtype,
        )


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        present = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return present or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {name!r} can't be used here: {reason}") from error
    return device


def looks_like_a_folder(name: str) -> bool:
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or "\\" in name


def absolute(name: str) -> str:
    """A folder or file as an absolute path, which a manifest can name; a hub id as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _check_lora_exists(source: str) -> None:
    """Refuse what is not on this machine and can't be a hub id either."""
    is_path = looks_like_a_folder(source) or Path(source).suffix == ".safetensors"
    if (is_path or source.count("/") != 1) and not Path(source).expanduser().exists():
        raise FileNotFoundError(f"There is no LoRA file or folder {source!r}. {LORA_EXPECTED}")
