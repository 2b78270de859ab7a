"""How long one short video takes from nothing: `stas generate` beside a bare script of diffusers.

    python -m benchmarks.startup --output benchmarks/results/startup.json

Whole processes in turn, each with one torch thread: `stas generate --steps 1` on the bundled model,
with and without steering, and a script that imports WanPipeline, loads the same folder, makes the
same video and writes it with PyAV. Printed are medians and their ratios to the bare script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stas.assets import BUNDLED_MODEL
from stas.files import whole_file

PROMPT = "a red circle moving right on a blue background"
BARE = f"""
import av, numpy as np, torch
from diffusers import WanPipeline
pipe = WanPipeline.from_pretrained({str(BUNDLED_MODEL)!r}, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
video = pipe(
    {PROMPT!r}, height=128, width=128, num_frames=17, num_inference_steps=1, guidance_scale=4.0,
    generator=torch.Generator("cpu").manual_seed(0), output_type="np",
).frames[0]
with av.open("bare.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=8)
    stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
    for frame in np.rint(video * 255).astype(np.uint8):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
"""
COMMAND = [sys.executable, "-m", "stas", "generate", PROMPT, "--steps", "1", "--force"]
PROCESSES = {
    "bare": [sys.executable, "-c", BARE],
    "plain": [*COMMAND, "--no-steer", "-o", "plain.mp4"],
    "steered": [*COMMAND, "-o", "steered.mp4"],
}


def seconds(command: list[str], folder: str) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in PROCESSES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for name, command in PROCESSES.items():
                took = seconds(command, folder)
                if number:  # the first only warms up the disk's cache
                    times[name].append(took)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": options.rounds,
        "seconds": {name: round(statistics.median(each), 2) for name, each in times.items()},
        "ratio to the bare script": {
            name: round(
                statistics.median(a / b for a, b in zip(each, times["bare"], strict=True)), 3
            )
            for name, each in times.items()
            if name != "bare"
        },
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        with whole_file(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
