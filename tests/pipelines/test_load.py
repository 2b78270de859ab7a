"""Loading by name, checked arguments, and one video."""

from __future__ import annotations

import json
import shutil
import socket

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline
from safetensors.torch import save_file

import stas
from stas.assets import BUNDLED_MODEL
from stas.pipelines.load import load_pipeline
from stas.pipelines.options import PipelineOptions
from tests.tiny import tiny_wan

PROXIES = [{name: "http://127.0.0.1:1"} for name in ("https", "all")]

PROMPT = "a red circle moving right on a blue background"


@pytest.fixture(scope="module")
def bundled():
    pipeline = load_pipeline(PipelineOptions(device="cpu"))
    pipeline.pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_wan().save_pretrained(folder)
    return folder


def small(pipeline, **wanted):
    sizes = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2}
    return pipeline.arguments(sizes | {"prompt": PROMPT} | wanted)


def test_diffusers_loads_the_bundled_model_by_itself(bundled):
    pipeline = WanPipeline.from_pretrained(BUNDLED_MODEL)
    for name in ("transformer", "vae", "text_encoder"):
        ours = getattr(bundled.pipeline, name).state_dict()
        for key, value in getattr(pipeline, name).state_dict().items():
            # transformers keeps the file's bfloat16; the values are the same.
            assert torch.equal(value.float(), ours[key])


def test_the_bundled_model_fits_in_the_package():
    assert sum(path.stat().st_size for path in BUNDLED_MODEL.rglob("*")) < 20_000_000


def test_the_bundled_profile_names_a_massive_dimension(bundled):
    with stas.steer(bundled) as handle:
        assert handle.origins == {"transformer": "profile"}
        assert "(massive)" in handle.summary()


def test_the_profile_is_what_detection_finds(bundled):
    """Without the profile, the first forward finds the same dimension."""
    with stas.steer(bundled) as handle:
        profiled = handle.dims
    transformer = bundled.transformer
    name = transformer.config._name_or_path
    transformer.register_to_config(_name_or_path="")
    try:
        with stas.steer(transformer) as handle:
            latents = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
            text, _ = bundled.pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)
            transformer(latents, torch.tensor([900.0]), text)
            assert handle.origins == {"transformer": "detected"}
            assert handle.dims == profiled
    finally:
        transformer.register_to_config(_name_or_path=name)


def test_components_that_diffusers_wants_in_float32_stay_there(tiny_folder):
    options = PipelineOptions(model=str(tiny_folder), device="cpu", dtype="bfloat16")
    pipeline = load_pipeline(options)
    assert pipeline.pipeline.transformer.dtype == torch.bfloat16
    assert pipeline.pipeline.vae.dtype == torch.float32


def test_a_model_in_bfloat16_makes_a_video(tiny_folder):
    options = PipelineOptions(model=str(tiny_folder), device="cpu", dtype="bfloat16")
    pipeline = load_pipeline(options)
    with stas.steer(pipeline, dims=(3,)):
        assert pipeline.generate(small(pipeline, max_sequence_length=16), 0).any()


def test_lora_weights_change_the_video_by_their_weight(tmp_path, tiny_folder):
    from peft import LoraConfig, get_peft_model_state_dict

    plain = load_pipeline(PipelineOptions(model=str(tiny_folder), device="cpu"))
    arguments = small(plain, max_sequence_length=16)
    before = plain.generate(arguments, 0).astype(int)
    teacher = tiny_wan()
    torch.manual_seed(0)
    teacher.transformer.add_adapter(
        LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"])
    )
    layers = get_peft_model_state_dict(teacher.transformer)
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    path = str(tmp_path / "pytorch_lora_weights.safetensors")

    def difference(weight):
        options = PipelineOptions(model=str(tiny_folder), device="cpu", loras={path: weight})
        pipeline = load_pipeline(options)
        with stas.steer(pipeline, dims=(3,), op="scale", scale=1.0):
            return np.abs(pipeline.generate(arguments, 0) - before).mean()

    assert difference(0.0) == 0
    assert 0 < difference(0.5) < difference(4.0)


def lora_file(path, name, rank, width):
    a, b = torch.ones(rank, width), torch.ones(width, rank)
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("clip.mp4", "Unable to load weights"),
        ("cut.safetensors", "Unable to load weights"),
        ("folder", "no file named"),
        ("plain.safetensors", "Invalid LoRA checkpoint"),
        ("other.safetensors", "none of its weights belongs to this WanPipeline"),
        ("narrow.safetensors", "size mismatch"),
        ("nobody/nothing", "offline mode"),
    ],
)
def test_a_lora_that_cannot_be_loaded_gets_one_line(
    monkeypatch, tmp_path, tiny_folder, source, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"\0\1\2" * 9)
    (tmp_path / "folder").mkdir()
    save_file({"weight": torch.ones(2)}, "plain.safetensors")
    lora_file("other.safetensors", "unet.to_q", 2, 24)
    lora_file("narrow.safetensors", "transformer.blocks.0.attn1.to_q", 2, 7)
    options = PipelineOptions(model=str(tiny_folder), device="cpu", loras={source: 1.0})
    with pytest.raises(ValueError, match=f"LoRA weights from '.*{source}': .*{message}") as caught:
        load_pipeline(options)
    assert caught.match("Expected is a .safetensors file .* hub id .* network is needed")
    assert "\n" not in str(caught.value)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a model in diffusers' format"):
        load_pipeline(PipelineOptions(model=str(tmp_path), device="cpu"))


def test_an_image_pipeline_is_refused_before_its_weights_are_read(tmp_path):
    index = {
        "_class_name": "FluxPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    message = "is a FluxPipeline.*Supported video transformers.*single frame"
    with pytest.raises(stas.UnsupportedModelError, match=message):
        load_pipeline(PipelineOptions(model=str(tmp_path), device="cpu"))


def test_a_hub_id_without_a_network_says_what_is_expected():
    with pytest.raises(OSError, match=r"from the hub.*end in -Diffusers.*cached copy"):
        load_pipeline(PipelineOptions(model="nobody/nothing", device="cpu"))


def test_no_time_is_lost_where_the_network_is_off(monkeypatch):
    """The hub's client would try six times; and a proxy may know what this machine does not."""
    asked = []

    def refuse(*arguments):
        raise socket.gaierror(-2, "Name or service not known")

    def load_config(source, **options):
        asked.append(options)
        raise OSError("nothing")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(DiffusionPipeline, "load_config", load_config)
    ways = [({}, True, "there is no network"), *((each, False, "nothing") for each in PROXIES)]
    for proxies, offline, message in ways:
        monkeypatch.setattr("stas.pipelines.load.getproxies", lambda proxies=proxies: proxies)
        with pytest.raises(OSError, match=message):
            load_pipeline(PipelineOptions(model="nobody/nothing", device="cpu"))
        assert asked.pop()["local_files_only"] is offline


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model_index.json", [], r"_class_name, .* but got \[\]"),
        ("model_index.json", {"_class_name": None}, "model_index.json of .*model' must be"),
        ("model_index.json", {"_class_name": "NoPipeline"}, "model' can't be loaded: .*NoPipeline"),
        ("tokenizer/tokenizer.json", {"added_tokens": 3}, "model' can't be loaded: .*JSON"),
        ("transformer/config.json", {"num_layers": 0}, "transformer has no blocks"),
        ("vae/config.json", {"scale_factor_temporal": 0}, "model' must be 1 or more, but got 0"),
    ],
)
def test_a_folder_that_says_what_can_not_be_is_told(tmp_path, file, content, reason):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    old = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(old | content if content else content))
    with pytest.raises(ValueError, match=reason):
        loaded = load_pipeline(PipelineOptions(model=str(folder), device="cpu"))
        loaded.check({"prompt": PROMPT, "num_frames": 5}, stas.STASConfig())


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", None, "no file named"),
        ("transformer/diffusion_pytorch_model.safetensors", b"cut", "Unable to load weights"),
        ("vae/config.json", b"{", "not a valid JSON file"),
        ("model_index.json", b"{", "not a valid JSON file"),
    ],
)
def test_a_folder_that_is_cut_short_is_said(tmp_path, file, content, reason):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(OSError, match="model' is not whole, or not readable: ") as caught:
        load_pipeline(PipelineOptions(model=str(folder), device="cpu"))
    assert reason in str(caught.value)
