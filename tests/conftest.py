"""Shared settings: one torch thread a process, quiet diffusers, Hypothesis without deadlines, and
no profile that was measured on this machine; and `run`, the command line."""

from __future__ import annotations

import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from diffusers.utils import logging
from hypothesis import settings

from stas.cli import main as cli

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",  # a name that was made to lead here
)

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("stas", deadline=None)  # timing has no place in tests
settings.register_profile("campaign", deadline=None, max_examples=2000)  # `make campaign`
settings.load_profile("stas")


@pytest.fixture(scope="module")
def browser():
    """Chromium, which goes nowhere by itself; tests of pages are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def no_measured_profiles(monkeypatch, tmp_path):
    monkeypatch.setenv("STAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `stas ARGUMENTS` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)  # main replaces it; pytest gets it back

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stas", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run
