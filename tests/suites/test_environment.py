"""VBench's environment: what makes it, what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stas.suites.environment import Environment, set_up, setup_commands
from stas.suites.vbench import DIMENSIONS, FLICKERING
from tests.suites.made import all_models, rows, stub_environment, write_info

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stub lies in lib/")


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    return stub_environment(folder / "env", write_info(folder, rows(1)))


def test_the_commands_that_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: "/bin/uv")
    make, install = setup_commands(tmp_path / "e", "3.11")
    inside = str(tmp_path / "e" / "bin" / "python")
    assert make == ["/bin/uv", "venv", "--python", "3.11", str(tmp_path / "e")]
    assert install[:5] == ["/bin/uv", "pip", "install", "--python", inside]
    assert "vbench==0.1.5" in install and "setuptools<81" in install
    monkeypatch.setattr("shutil.which", lambda _: None)
    make, _, build = setup_commands(tmp_path / "e", "/usr/bin/python3.11", "./detectron2")
    assert make == ["/usr/bin/python3.11", "-m", "venv", str(tmp_path / "e")]
    assert build == [inside, "-m", "pip", "install", "--no-build-isolation", "./detectron2"]
    assert setup_commands(tmp_path / "e")[0][0] == sys.executable


def test_what_is_there_is_not_made_again(stub):
    assert [command[-1] for command in setup_commands(stub)] == ["wheel"]


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is no environment of Python"):
        set_up(tmp_path)
    with pytest.raises(FileExistsError, match="is no environment of Python"):
        set_up(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_python_without_wheels_is_refused_before_gigabytes_come(stub, monkeypatch):
    monkeypatch.setattr("stas.suites.environment.PYTHONS", ("3.7",))
    with pytest.raises(
        ValueError, match=r"is Python 3\.\d+, and VBench's packages have wheels for"
    ):
        set_up(stub)


def test_a_command_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(RuntimeError, match=r"no-such-python -m venv .* can't be run"):
        set_up(tmp_path / "e", "no-such-python")
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        set_up(tmp_path / "e", "false")


def test_no_environment_and_one_without_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no environment of Python"):
        _ = Environment(tmp_path).info
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "e")]
    subprocess.run(command, check=True)
    with pytest.raises(FileNotFoundError, match="is without the package vbench"):
        Environment(tmp_path / "e").doctor()


def test_the_doctor_names_file_place_and_source(stub, tmp_path, monkeypatch):
    monkeypatch.setattr("stas.suites.environment._has_bert", lambda: False)
    found = Environment(stub, tmp_path / "cache").doctor()
    assert not found.ready and not found.cuda and found.versions["vbench"] == "0.1.5"
    assert [name for name, lacks in found.lacking.items() if not lacks] == [FLICKERING]
    place = tmp_path / "cache" / "raft_model" / "models" / "raft-things.pth"
    for name in ("dynamic_degree", f"{FLICKERING}, by its filter"):
        assert found.lacking[name][0].startswith(f"{place} is missing; it comes from https://")
    text = "; ".join(found.lacking["color"])
    assert "grit_b_densecap" in text and "bert-base-uncased" in text and "detectron2" in text

    monkeypatch.setattr("stas.suites.environment._has_bert", lambda: True)
    found = Environment(stub, all_models(tmp_path / "cache")).doctor()
    lacking = {name for name, lacks in found.lacking.items() if lacks}
    assert lacking == {each.name for each in DIMENSIONS.values() if each.detectron2}


def test_a_dimension_that_does_not_import_is_told(stub, tmp_path):
    environment = Environment(stub, all_models(tmp_path / "cache"))
    module = next(stub.glob("lib/python*/site-packages/vbench")) / "aesthetic_quality.py"
    kept = module.read_text()
    module.write_text("import clip_of_another_name\n")
    try:
        (lacks,) = environment.doctor().lacking["aesthetic_quality"]
    finally:
        module.write_text(kept)
    assert lacks == "it can't be imported: ModuleNotFoundError: No module named " + repr(
        "clip_of_another_name"
    )


def test_its_python_does_not_see_our_packages(stub, tmp_path, monkeypatch):
    """Nor the modules beside the runner, one of which is called vbench too."""
    monkeypatch.setenv("PYTHONPATH", str(Path("src").resolve()))
    found = Environment(stub, all_models(tmp_path / "c")).run(
        {"task": "look", "dimensions": ["scene", "none"]}
    )
    assert list(found["errors"]) == ["none"]


def test_where_models_lie(monkeypatch, tmp_path):
    assert Environment(tmp_path, Path("here")).models == Path("here")
    monkeypatch.setenv("VBENCH_CACHE_DIR", "there")
    assert Environment(tmp_path).models == Path("there")
    monkeypatch.delenv("VBENCH_CACHE_DIR")
    assert Environment(tmp_path).models == Path.home() / ".cache" / "vbench"
