"""`stas config`: what it prints is what `generate --config` reads."""

from __future__ import annotations

import json

from stas.method.config import STASConfig
from stas.method.presets import preset


def test_it_prints_and_writes_a_config(run, tmp_path):
    code, out, _ = run("config", "--scale", "1.2", "--blocks", "0,3")
    assert code == 0
    wanted = STASConfig(scale=1.2, blocks=(0, 3))
    assert STASConfig.from_dict(json.loads(out)) == wanted
    assert run("config", "--scale", "1.2", "--blocks", "0,3", "-o", "new/c.json")[0] == 0
    assert STASConfig.load("new/c.json") == wanted
    code, out, _ = run("config", "--config", "new/c.json", "--scale", "2")
    assert STASConfig.from_dict(json.loads(out)) == STASConfig(scale=2, blocks=(0, 3))
    code, out, _ = run("config", "--intervention", "zero", "--stop", "1")
    assert json.loads(out) == preset("zero").to_dict() | {"stop": 1.0}


def test_nothing_is_written_over_or_half_given(run, tmp_path):
    assert run("config", "-o", "c.json")[0] == 0
    for arguments, code, message in [
        (("-o", "c.json"), 1, "exists already"),
        (("-o", "c.toml"), 1, "a .json file"),
        (("--config", "c.json", "--intervention", "zero"), 2, "not both"),
        (("--intervention", "one"), 1, "no intervention 'one'"),
        (("--scale", "-1"), 1, "scale must be"),
    ]:
        found = run("config", *arguments)
        assert found[0] == code and message in found[2]
    assert run("config", "-o", "c.json", "--force", "--scale", "2")[0] == 0
    assert STASConfig.load("c.json").scale == 2
