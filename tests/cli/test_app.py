"""The app: help, version, errors."""

from __future__ import annotations

import stas


def test_version_and_help(run):
    assert run("--version") == (0, f"stas {stas.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert "generate" in out and "models" in out


def test_a_traceback_can_be_asked_for(run, monkeypatch):
    monkeypatch.setenv("STAS_TRACEBACK", "1")
    assert "Traceback" in run("generate", "x", "--scale", "nan")[2]
