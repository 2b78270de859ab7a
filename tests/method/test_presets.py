"""Each preset does what its name says, on the hidden states of a tiny real transformer."""

from __future__ import annotations

import pytest
import torch

import stas
from stas.method.presets import AMPLIFIED, INTERVENTIONS, preset
from stas.method.tokens import TokenGrid
from tests.tiny import plant_massive_dimension, tiny_wan_transformer

DIM = 5
GRID = TokenGrid(frames=3, height=4, width=4)


def last_block(config):
    """What the last block returns, (N, D), when it alone is steered; None steers nothing."""
    transformer = tiny_wan_transformer(num_layers=1)
    plant_massive_dimension(transformer, DIM)
    seen = []
    transformer.norm_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, GRID.frames, 8, 8, generator=generator)
    text = torch.randn(1, 3, 16, generator=generator)
    with torch.no_grad():
        if config is None:
            transformer(latents, torch.ones(1), text)
        else:
            with stas.steer(transformer, config, dims=(DIM,)):
                transformer(latents, torch.ones(1), text)
    return seen[0][0]


def expected(name, values):
    """The definition of each preset, for the values (N,) of the massive dimension."""
    peak = values.abs().max() * values.sign()
    first = torch.arange(len(values)) < GRID.tokens_per_frame
    place = torch.arange(len(values)) % GRID.tokens_per_frame
    k = 2  # 8 % of 16 tokens, rounded up
    boundary = ~first & ((place < k) | (place >= GRID.tokens_per_frame - k))
    return {
        "zero": torch.zeros_like(values),
        "mean": values.mean().expand_as(values),
        "scale-all": AMPLIFIED * values,
        "scale-first-frame": torch.where(first, AMPLIFIED * values, values),
        "max-first-frame": torch.where(first, peak, values),
        "boundary": torch.where(boundary, peak, values),
        "stas": torch.where(first | boundary, peak, values),
    }[name]


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_a_preset_does_what_its_name_says(name):
    plain, steered = last_block(None), last_block(preset(name))
    assert plain[:, DIM].abs().mean() > 20 * plain.abs().mean()
    torch.testing.assert_close(steered[:, DIM], expected(name, plain[:, DIM]))
    others = torch.arange(plain.shape[1]) != DIM
    assert torch.equal(steered[:, others], plain[:, others])
    assert not torch.equal(steered, plain)


def test_presets_differ_and_say_what_is_the_papers():
    configs = [each.config for each in INTERVENTIONS.values()]
    assert len(set(configs)) == len(configs)
    assert {each.config.boundary for each in INTERVENTIONS.values()} == {0.08}
    assert all(each.figure and each.paper and each.choice for each in INTERVENTIONS.values())


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no intervention 'max'\. Known: zero, mean, scale-all"):
        preset("max")
