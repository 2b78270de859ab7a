"""Temporal flickering of three videos: `stas.measures` against the `vbench` package's function.

    python -m benchmarks.vbench_agreement --vbench-python vbench-env/bin/python [--output FILE]

`vbench` needs older packages than stas, so it runs in an environment of its own, as a process:

    python3.11 -m venv vbench-env
    vbench-env/bin/pip install --no-deps vbench==0.1.5
    vbench-env/bin/pip install torch==2.2.2 torchvision==0.17.2 "numpy<2" decord tqdm pillow \\
        opencv-python-headless==4.11.0.86

The bundled model makes the videos. Both read the same MP4 files, stas with PyAV and vbench with
OpenCV, so whatever the decoders round differently is part of the difference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import report
from stas.measures.frames import temporal_flickering
from stas.media.video import read_video

CAPTIONS = (
    "a red circle moving left on a blue background",
    "a purple circle standing still on a black background",
    "a yellow ring moving down on a brown background",
)
STEPS = 10
# Runs in vbench's environment, which does not know stas.
VBENCH = """
import json, sys
from importlib.metadata import version
from vbench.temporal_flickering import temporal_flickering
_, found = temporal_flickering(sys.argv[1:])
scores = [each["video_results"] for each in found]
print(json.dumps({"vbench": version("vbench"), "scores": scores}))
"""


def make_videos(folder: Path) -> list[Path]:
    paths = [folder / f"{number}.mp4" for number in range(len(CAPTIONS))]
    for caption, path in zip(CAPTIONS, paths, strict=True):
        command = [sys.executable, "-m", "stas", "generate", caption]
        subprocess.run([*command, "--steps", str(STEPS), "-o", str(path)], check=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vbench-python", required=True, help="the interpreter that has vbench")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = make_videos(Path(folder))
        ours = [temporal_flickering(read_video(path)) for path in videos]
        command = [options.vbench_python, "-c", VBENCH, *map(str, videos)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    theirs = json.loads(said.splitlines()[-1])
    rows = [
        {
            "caption": caption,
            "stas": round(mine, 6),
            "vbench": round(other, 6),
            "difference": round(mine - other, 9),
        }
        for caption, mine, other in zip(CAPTIONS, ours, theirs["scores"], strict=True)
    ]
    details = {"vbench": theirs["vbench"], "steps": STEPS, "temporal flickering": rows}
    report("vbench_agreement", details, options.output)


if __name__ == "__main__":
    main()
