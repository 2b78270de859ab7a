"""Recording many videos: stopping and going on, and the profile that comes of it."""

from __future__ import annotations

import pytest
import torch

import stas
from stas.activations.profiles import Profile, cached_profile
from stas.activations.stats import ActivationStats
from stas.assets import prompt_list
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.recorder import make_profile, record_videos
from stas.workers.leases import Leases
from tests.tiny import plant_massive_dimension, tiny_wan
from training.clips import scenes

CALL = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}
CALL |= {"max_sequence_length": 16}
PROMPTS = ["a red circle", "a blue square", "a red square moving"]


def same(one, two):
    assert one.samples == two.samples
    for key, cell in one.cells.items():
        for name, array in cell.arrays().items():
            assert torch.equal(array, getattr(two.cells[key], name))


def test_what_is_finished_is_in_the_file_and_the_rest_can_follow(tmp_path):
    whole = record_videos(LoadedPipeline(tiny_wan()), PROMPTS, CALL, tmp_path / "whole.safetensors")
    path = tmp_path / "parts.safetensors"

    def stop(progress):
        if [(each.task, each.step) for each in progress.working] == [("0002", 1)]:
            raise KeyboardInterrupt  # in the middle of the third video

    with pytest.raises(KeyboardInterrupt):
        record_videos(LoadedPipeline(tiny_wan()), PROMPTS, CALL, path, report=stop)
    assert ActivationStats.load(path).metadata["finished"] == "2"
    assert set(ActivationStats.load(path).samples.values()) == {2}
    record_videos(LoadedPipeline(tiny_wan()), PROMPTS, CALL, path, resume=True)
    same(ActivationStats.load(path), whole)
    same(
        record_videos(LoadedPipeline(tiny_wan()), PROMPTS, CALL, path, resume=True), whole
    )  # nothing is left


def test_every_video_has_its_own_prompt_and_seed(tmp_path):
    together = record_videos(
        LoadedPipeline(tiny_wan()), PROMPTS[:2], CALL, tmp_path / "both.safetensors", seed=4
    )
    one, two = (
        record_videos(
            LoadedPipeline(tiny_wan()), [prompt], CALL, tmp_path / f"{seed}.safetensors", seed=seed
        )
        for seed, prompt in ((4, PROMPTS[0]), (5, PROMPTS[1]))
    )
    one.merge(two)
    same(together, one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": PROMPTS[:2]}, "its prompts is"),
        ({"seed": 4}, "its seed is 0, but now it is 4"),
        ({"arguments": CALL | {"num_inference_steps": 3}}, "its arguments is"),
        ({"blocks": (0,)}, "blocks"),
    ],
)
def test_another_run_is_not_mixed_in(tmp_path, change, message):
    path = tmp_path / "s.safetensors"
    options = {"prompts": PROMPTS[:1], "arguments": CALL, "path": path}
    record_videos(LoadedPipeline(tiny_wan()), **options)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        record_videos(LoadedPipeline(tiny_wan()), **(options | change), resume=True)
    assert path.read_bytes() == before


def test_another_revision_is_not_mixed_in(tmp_path):
    path = tmp_path / "s.safetensors"
    record_videos(LoadedPipeline(tiny_wan()), PROMPTS[:1], CALL, path)
    other = LoadedPipeline(tiny_wan(), PipelineOptions(model="a/b", revision="v2", device="cpu"))
    with pytest.raises(ValueError, match="its revision is , but now it is v2"):
        record_videos(other, PROMPTS[:1], CALL, path, resume=True)


def test_what_was_recorded_by_hand_is_not_gone_on_with(tmp_path):
    with stas.record(tiny_wan()) as recording:
        recording.stats.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="its arguments is None, but now it is"):
        record_videos(
            LoadedPipeline(tiny_wan()), PROMPTS, CALL, tmp_path / "s.safetensors", resume=True
        )


def test_no_prompts_and_an_unwritable_place(tmp_path):
    with pytest.raises(ValueError, match="no prompts"):
        record_videos(LoadedPipeline(tiny_wan()), [], CALL, tmp_path / "s.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        record_videos(
            LoadedPipeline(tiny_wan()), PROMPTS[:1], CALL, tmp_path / "file" / "s.safetensors"
        )


def test_a_measured_profile_is_used_by_steer(tmp_path):
    """From recording to steering, on a model with a planted dimension."""
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 5, value=1000.0)
    pipeline.save_pretrained(tmp_path / "model")
    pipeline = type(pipeline).from_pretrained(tmp_path / "model")
    stats = record_videos(LoadedPipeline(pipeline), PROMPTS[:1], CALL, tmp_path / "s.safetensors")
    made, found = make_profile(stats, pipeline.transformer, str(tmp_path / "model"))
    assert made.dims == found.dims == (5,)
    assert made.config == {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 12}
    place = cached_profile(str(tmp_path / "model"))
    place.parent.mkdir(parents=True)
    made.save(place)
    assert Profile.load(place) == made
    with stas.steer(pipeline) as handle:
        assert handle.dims == {"transformer": (5,)}
        assert handle.origins == {"transformer": "profile"}
        assert "measured" in handle.summary()


def test_no_massive_dimension_makes_no_profile(tmp_path):
    pipeline = tiny_wan()
    stats = record_videos(LoadedPipeline(pipeline), PROMPTS[:1], CALL, tmp_path / "s.safetensors")
    made, found = make_profile(stats, pipeline.transformer, "m")
    assert made is None and found.strongest


def test_the_lists_of_prompts_that_ship():
    general = prompt_list("owner/model").read_text().splitlines()
    bundled = prompt_list("bundled").read_text().splitlines()
    for prompts, count in ((general, 100), (bundled, 128)):
        assert len(set(prompts)) == len(prompts) == count
        assert all(prompt == prompt.strip() != "" for prompt in prompts)
    assert set(bundled) <= {scene.caption for scene in scenes("held-out")}


def test_what_others_recorded_beyond_enough_is_left_out(tmp_path):
    """A process that lacks the first video yet holds back eight others, of which five count."""
    prompts = [f"{prompt} {n}" for n in range(3) for prompt in PROMPTS]
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 3)
    loaded, path = LoadedPipeline(pipeline), tmp_path / "s.safetensors"
    alone = record_videos(loaded, prompts, CALL, tmp_path / "a.safetensors", until_sure=True)
    parts = tmp_path / ".s.safetensors.parts"
    parts.mkdir()

    def stop(progress):
        if len(list(parts.glob("*.safetensors"))) == 8:
            raise KeyboardInterrupt

    with Leases(parts, "another host 1").take("0000"), pytest.raises(KeyboardInterrupt):
        record_videos(loaded, prompts, CALL, path, until_sure=True, report=stop)
    same(record_videos(loaded, prompts, CALL, path, until_sure=True), alone)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", path.name]


def test_recording_ends_when_the_dimensions_are_sure(tmp_path):
    """And goes on to the end when that is asked for."""
    prompts = [f"{prompt} {n}" for n in range(3) for prompt in PROMPTS]
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 3)
    loaded = LoadedPipeline(pipeline)
    path, whole = tmp_path / "sure.safetensors", tmp_path / "whole.safetensors"
    found = record_videos(loaded, prompts, CALL, path, until_sure=True)
    assert found.metadata["finished"] == "6"
    again = record_videos(loaded, prompts, CALL, path, until_sure=True, resume=True)
    same(found, again)
    record_videos(loaded, prompts, CALL, path, resume=True)
    same(ActivationStats.load(path), record_videos(loaded, prompts, CALL, whole))
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, whole.name]
