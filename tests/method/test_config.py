"""STASConfig: checked when built, the same after a round trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.method.config import BRANCHES, OPS, REFERENCES, REGIONS, STASConfig

configs = st.builds(
    STASConfig,
    dims=st.none() | st.lists(st.integers(0, 5000), min_size=1, unique=True).map(tuple),
    blocks=st.sampled_from(["all", "middle"])
    | st.lists(st.integers(-40, 40), min_size=1, unique=True).map(tuple),
    op=st.sampled_from(OPS),
    regions=st.lists(st.sampled_from(REGIONS), min_size=1, unique=True).map(tuple),
    boundary=st.floats(0, 0.5),
    scale=st.floats(0, 100),
    reference=st.sampled_from(REFERENCES),
    start=st.floats(0, 0.4),
    stop=st.floats(0.5, 1),
    branches=st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True).map(tuple),
)


@given(configs)
def test_json_round_trip(config):
    assert STASConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"dims": ()}, ValueError, "dims is empty"),
        ({"dims": (-1,)}, ValueError, "counted from 0"),
        ({"dims": (3, 3)}, ValueError, "same number twice"),
        ({"dims": (1.5,)}, TypeError, "integers"),
        ({"dims": (True,)}, TypeError, "integers"),
        ({"dims": "1188"}, TypeError, "sequence of integers"),
        ({"dims": 1188}, TypeError, "sequence of integers"),
        ({"blocks": "last"}, ValueError, '"all", "middle" or block numbers'),
        ({"blocks": ()}, ValueError, "blocks is empty"),
        ({"op": "add"}, ValueError, "max, scale, zero, mean"),
        ({"regions": ("edge",)}, ValueError, "first_frame, boundary, interior"),
        ({"regions": ()}, ValueError, "regions is empty"),
        ({"regions": "boundary"}, TypeError, "tuple"),
        ({"boundary": 0.6}, ValueError, r"0 to 0\.5"),
        ({"boundary": -0.1}, ValueError, r"0 to 0\.5"),
        ({"boundary": float("nan")}, ValueError, r"0 to 0\.5"),
        ({"scale": float("nan")}, ValueError, "finite"),
        ({"scale": float("inf")}, ValueError, "finite"),
        ({"scale": -1.0}, ValueError, "0 or more"),
        ({"scale": 10**400}, ValueError, "scale is too large"),
        ({"scale": "2"}, TypeError, "number"),
        ({"reference": "block"}, ValueError, "dim, global"),
        ({"start": 0.4, "stop": 0.4}, ValueError, "empty"),
        ({"branches": ()}, ValueError, "branches is empty"),
        ({"branches": ("positive",)}, ValueError, "cond, uncond"),
    ],
)
def test_bad_fields_say_what_was_expected(fields, error, message):
    with pytest.raises(error, match=message):
        STASConfig(**fields)


def test_numpys_numbers_are_numbers():
    config = STASConfig(dims=np.array([3, 1]), blocks=np.arange(2), scale=np.float32(1.5))
    assert config == STASConfig(dims=(3, 1), blocks=(0, 1), scale=1.5)
    assert STASConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"'strength'.*Known: dims"):
        STASConfig.from_dict({"strength": 2})


def test_save_and_load(tmp_path):
    config = STASConfig(dims=(3,), blocks=(0, -1))
    config.save(tmp_path / "config.json")
    assert STASConfig.load(tmp_path / "config.json") == config
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"scale": "big"}', '{"colour": 1}', ""])
def test_corrupt_and_foreign_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not a steering config"):
        STASConfig.load(path)
