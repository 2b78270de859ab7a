"""What every command writes, as hashes: run it before and after a change that must change nothing.

    python -m benchmarks.outputs --output before.json
    python -m benchmarks.outputs --output after.json --against before.json

Everything runs on the bundled model with fixed seeds, one torch thread and an empty cache. Hashed
are the exit code, what is printed, and every file: of JSON files without times and versions, of
pages also without the differences of white space, and safetensors by their tensors and
text, and exact videos by their frames.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

RED = "a red circle moving right on a blue background"
SQUARE = "a green square moving down on a white background"
SMALL = ("--steps", "3")
STUDY = """
prompts = ["a red circle moving right on a blue background", "a green square on white"]
arguments = { num_inference_steps = 2 }
own_measures = ["statistics_of:brightness"]
[base]
blocks = "all"
[axes]
scale = [0.5, 2.0]
regions = [["first_frame"], ["boundary"]]
"""
MEASURE = """
def brightness(frames, prompt):
    return {"brightness": float(frames.mean()), "words": len(prompt.split())}
"""
CONFIG = {"scale": 1.5, "blocks": "all", "stop": 1.0}

COMMANDS: dict[str, tuple[str, ...]] = {
    "models": ("models",),
    "models-json": ("models", "--json"),
    "generate": ("generate", RED, *SMALL, "--seed", "0,1", "-o", "steered"),
    "generate-plain": ("generate", RED, *SMALL, "--no-steer", "-o", "plain.mp4"),
    "generate-options": (
        *("generate", RED, *SMALL, "--config", "config.json", "--dims", "3,254", "--op", "scale"),
        *("--regions", "first_frame", "--branches", "cond", "--frames", "9", "--fps", "12"),
        *("--size", "64x64", "--guidance", "3", "--negative-prompt", "gray", "-o", "options.mp4"),
    ),
    "generate-prompts": ("generate", "--prompts", "prompts.txt", *SMALL, "-o", "many"),
    "generate-repeat": ("generate", "--manifest", "plain.json", "-o", "again.mp4"),
    "record": ("record", "-n", "2", *SMALL, "--plots", "-o", "stats.safetensors"),
    "record-options": (
        *("record", "-n", "1", *SMALL, "--blocks", "0,-1", "--map-blocks", "none"),
        *("--boundary", "0.1", "--seed", "5", "-o", "few.safetensors"),
    ),
    "profile": ("profile", "-n", "2", *SMALL, "-o", "profile.json"),
    "plot": ("plot", "stats.safetensors", "few.safetensors", "-o", "drawn", "--dims", "254"),
    "compare": (
        *("compare", "--prompts", "prompts.txt", *SMALL, "--seed", "0,3", "-o", "compared"),
        *("--run", "off", "--run", "on", "--run", "boundary", "--run", "config.json"),
        *("--measure", "statistics_of:brightness"),
    ),
    "study": ("study", "small.toml", "-o", "studied"),
    "study-report": ("study", "small.toml", "-o", "studied", "--report"),
    "study-dims": ("study", "ablation-dims", "--count", "1", "--steps", "2", "-o", "dims"),
    "wrong-prompt": ("generate",),
    "wrong-size": ("generate", RED, "--size", "7x", "-o", "no.mp4"),
    "wrong-frames": ("generate", RED, "--frames", "10", "-o", "no.mp4"),
    "wrong-model": ("generate", RED, "--model", "./nowhere", "-o", "no.mp4"),
    "wrong-place": ("generate", RED, "-o", "plain.mp4"),
    "wrong-run": ("compare", RED, "--run", "off", "--run", "nothing", "-o", "no"),
    "wrong-study": ("study", "nowhere.toml"),
    "wrong-stats": ("plot", "prompts.txt"),
}
LEFT_OUT = ("seconds", "created", "versions", "made_with")
TIMES = re.compile(r"(\d+(\.\d+)?|nan) (s|min|h)\b|\d+:\d\d:\d\d")
BUNDLED = re.compile(r"[^\s\"\\]*/bundled_model")  # where the package lies is no difference


def prepare(folder: Path) -> None:
    (folder / "prompts.txt").write_text(f"{RED}\n{SQUARE}\n")
    (folder / "small.toml").write_text(STUDY)
    (folder / "statistics_of.py").write_text(MEASURE)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def hashed(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def of_file(path: Path) -> str:
    """A hash of a file, without what differs between two runs of the same code."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            names = sorted(file.keys())
            parts = [f"{name} {hashed(file.get_tensor(name).tobytes())}" for name in names]
            text = BUNDLED.sub("bundled_model", json.dumps(file.metadata(), sort_keys=True))
        return hashed(("\n".join(parts) + text).encode())
    if path.suffix == ".mkv":  # its format holds a random number
        import av

        with av.open(str(path)) as container:
            frames = [each.to_ndarray(format="rgb24").tobytes() for each in container.decode()]
        return hashed(b"".join(frames))
    if path.suffix == ".json":
        data = json.loads(BUNDLED.sub("bundled_model", path.read_text()))
        return hashed(json.dumps({k: v for k, v in data.items() if k not in LEFT_OUT}).encode())
    if path.suffix == ".html":
        # Between tags white space means nothing, and at their ends a page has none that is seen.
        text = re.sub(r"\s*(<[^>]*>)\s*", r"\1", path.read_text())
        return hashed(re.sub(r"\s+", " ", text).encode())
    return hashed(path.read_bytes())


def run(command: tuple[str, ...], folder: Path) -> tuple[int, str, str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "STAS_CACHE": str(folder / ".cache"),
        "COLUMNS": "120",
    }
    found = subprocess.run(
        [sys.executable, "-m", "stas", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    output, errors = (
        BUNDLED.sub("bundled_model", TIMES.sub("TIME", text.replace(str(folder), "")))
        for text in (found.stdout, found.stderr)
    )
    return found.returncode, output, errors


def fingerprint(only: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        for label, command in COMMANDS.items():
            if only and label not in only:
                continue
            print(label, flush=True)
            code, output, errors = run(command, folder)
            found[f"{label}: exit code"] = str(code)
            found[f"{label}: printed"] = hashed(output.encode())
            found[f"{label}: said"] = errors if code else hashed(errors.encode())
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[str(path.relative_to(folder))] = of_file(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="An earlier output: print what differs.")
    parser.add_argument("--only", nargs="*", default=[], help="Labels of commands.")
    options = parser.parse_args()
    found = fingerprint(options.only)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{len(found)} hashes in {options.output}")
    if options.against is not None:
        before = json.loads(options.against.read_text())
        for name in sorted({*before, *found}):
            if before.get(name) != found.get(name):
                print(f"{name}:\n  {before.get(name)}\n  {found.get(name)}")


if __name__ == "__main__":
    main()
