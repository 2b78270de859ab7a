"""Which pipeline is loaded, and how."""

from __future__ import annotations

import pytest

from stas.pipelines.load import load_pipeline
from stas.pipelines.options import PipelineOptions


@pytest.mark.parametrize("source", ["no.safetensors", "a/no.safetensors", "nope", "~/no", "a/b/c"])
def test_a_lora_that_is_not_there_is_told_before_the_model_is_read(source):
    with pytest.raises(FileNotFoundError, match=f"'{source}'. Expected is a .safetensors file"):
        PipelineOptions(device="cpu", loras={source: 1.0}).resolved()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "./nowhere"}, FileNotFoundError, "no folder './nowhere'.*hub id"),
        ({"model": "nowhere"}, FileNotFoundError, "hub id looks like OWNER/NAME"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of auto, float32"),
        ({"offload": "disk"}, ValueError, "offload must be one of none, model"),
        ({"offload": "model"}, ValueError, "the device is the CPU"),
        ({"device": "toaster"}, ValueError, "device 'toaster' can't be used here"),
        ({"loras": {"./no.safetensors": 1.0}}, FileNotFoundError, "LoRA.*no.safetensors"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(PipelineOptions(**{"device": "cpu"} | options))
