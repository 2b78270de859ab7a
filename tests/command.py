"""The command line in a process of its own, and what a run left in its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from stas.activations.profiles import FOLDER_PROFILE, Profile
from stas.assets import BUNDLED_MODEL

BUNDLED_DIMS = Profile.load(BUNDLED_MODEL / FOLDER_PROFILE).dims
DIMS = ", ".join(map(str, BUNDLED_DIMS))  # as the command line and the reports name them


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def interrupt(folder, *arguments):
    """Runs `stas ARGUMENTS` in a folder and presses Ctrl-C once the denoising has begun."""
    if os.name != "posix":
        pytest.skip("sends SIGINT, which other systems have no way to send to one process")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "stas", *arguments],
            cwd=folder,
            stdout=output,
            stderr=output,
            # In a terminal the bar is drawn as it goes, which tells when the denoising has begun.
            env=os.environ | {"FORCE_COLOR": "1", "OMP_NUM_THREADS": "1"},
            # A shell starts its background jobs deaf to SIGINT, and tests may be such a job.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        deadline = time.monotonic() + 120
        while b"step" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert b"Stopped" in log.read_bytes()
    log.unlink()
