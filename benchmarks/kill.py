"""Kill commands and their workers at random moments, and see that nothing is lost or made twice.

    python -m benchmarks.kill --times 20 --output benchmarks/results/kill.json

Commands are killed by SIGKILL after a random time and started again, until each has been killed
`--times` times; then it is left to end. Of commands with workers it is the workers that are killed,
at random moments of their work, and the command itself goes on. Compared is the folder with that of
one process that nobody disturbed: the same files, each equal but for the times in manifests, no
temporary file left, and no finished video written a second time. Of an mp4 its number of frames is
compared, and by the manifest their pixels: on a busy machine libx264 gives other bytes for the same
frames now and then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tqdm import tqdm

from stas.files import whole_file
from stas.media.video import count_frames

PROMPTS = ["a red circle moving right", "a blue square", "a green triangle moving left"]
STUDY = f"""
prompts = {json.dumps(PROMPTS)}
samples_per_prompt = 2
measures = ["psnr"]
[arguments]
num_inference_steps = 2
num_frames = 5
height = 64
width = 64
[axes]
scale = [1.0, 2.0]
"""
SMALL = ["--steps", "2", "--frames", "5", "--size", "64x64"]
STUDY_COMMAND = ["study", "study.toml", "-o", "out"]
GENERATE = [
    "generate",
    "--prompts",
    "prompts.txt",
    "--seed",
    "0-1",
    *SMALL,
    "-o",
    "out",
    "--resume",
]
RECORD = [
    "record",
    "--prompts",
    "prompts.txt",
    "-n",
    "3",
    *SMALL,
    "-o",
    "out/s.safetensors",
    "--resume",
]
TWO, RAY = ["--workers", "2"], ["--workers", "2", "--ray", "local"]
COMMANDS = {
    "study": STUDY_COMMAND,
    "generate": GENERATE,
    "study, 2 workers": [*STUDY_COMMAND, *TWO],
}
WORKERS = {
    "workers of a study": [*STUDY_COMMAND, *TWO],
    "workers of a study, Ray": [*STUDY_COMMAND, *RAY],
    "workers of generate": [*GENERATE, *TWO],
    "workers of record": [*RECORD, *TWO],
}
SHORTEST = 3.0  # seconds: importing torch alone takes longer


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"STAS_CACHE": str(folder / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "stas", *command],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "errors.txt").open("wb"),
    )


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder / "out"


def finish(command: list[str], folder: Path) -> float:
    """Run to the end; how long it took."""
    started = time.monotonic()
    process = start(command, folder)
    if process.wait() != 0:
        raise RuntimeError((folder / "errors.txt").read_text()[-2000:])
    return time.monotonic() - started


def contents(out: Path) -> dict[str, str]:
    """Every file's hash, but for what says when and how long."""
    found = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".mp4":
            data = str(count_frames(path)).encode()
        elif path.suffix == ".safetensors":  # whose header has no order
            data = repr(sorted(tensors(path).items())).encode()
        elif path.suffix == ".json" and b'"created"' in data:
            record = json.loads(data)
            data = json.dumps({k: v for k, v in record.items() if k not in ("created", "seconds")})
            data = data.encode()
        found[str(path.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return found


def tensors(path: Path) -> dict[str, str]:
    """The hash of each tensor of a file, and what it says of them."""
    with safe_open(path, framework="np") as file:
        found = {name: hashlib.sha256(file.get_tensor(name)).hexdigest() for name in file.keys()}  # noqa: SIM118
        said = json.loads(file.metadata()["stats"])
    return found | {"stats": json.dumps(said, sort_keys=True)}


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The videos that are finished, with what changes when one is written again."""
    return {
        str(manifest): (manifest.stat().st_mtime_ns, manifest.stat().st_ino)
        for manifest in out.rglob("*.json")
        if not manifest.name.endswith(".metrics.json") and manifest.with_suffix(".mp4").is_file()
    }


def tortured(name: str, times: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a command so many times, and compare."""
    command, draw = COMMANDS[name], random.Random(f"{name} {seed}")
    wanted = prepare(folder / f"{name}-whole")
    took = finish(command, wanted.parent)
    out = prepare(folder / f"{name}-killed")
    known: dict[str, tuple[int, int]] = {}
    faults, moments, rounds = [], [], 0
    with tqdm(total=times, desc=name) as bar:
        while len(moments) < times:
            process, delay = start(command, out.parent), draw.uniform(SHORTEST, took)
            try:
                process.wait(timeout=delay)
                # It ended first: what is made is moved away, and the run begins anew.
                if process.returncode != 0:
                    faults.append((out.parent / "errors.txt").read_text()[-500:])
                    break
                rounds += 1
                out.rename(out.with_name(f"ended-{rounds}"))
                known = {}
                continue
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            moments.append(round(delay, 2))
            bar.update()
            now = finished(out) if out.exists() else {}
            faults += [
                f"{each} was lost or made twice" for each in known if now.get(each) != known[each]
            ]
            known = now
    finish(command, out.parent)
    now = finished(out)
    faults += [f"{each} was lost or made twice" for each in known if now.get(each) != known[each]]
    for ended in [*sorted(out.parent.glob("ended-*")), out]:
        faults += compared(contents(wanted), contents(ended), ended.name)
    return {
        "killed": len(moments),
        "seconds": moments,
        "whole run, seconds": round(took, 1),
        "runs that ended": rounds + 1,
        "videos": len(now),
        "faults": faults,
    }


def compared(expected: dict[str, str], found: dict[str, str], where: str) -> list[str]:
    """How a folder differs from that of an undisturbed run."""
    faults = [f"{where}/{path} is missing" for path in sorted(set(expected) - set(found))]
    faults += [f"{where}/{path} is left" for path in sorted(set(found) - set(expected))]
    both = sorted(set(found) & set(expected))
    return faults + [f"{where}/{path} differs" for path in both if found[path] != expected[path]]


def decimated(name: str, times: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill workers of commands so many times, and compare with one process."""
    command, draw = WORKERS[name], random.Random(f"{name} {seed}")
    alone = command[: command.index("--workers")]
    wanted = prepare(folder / f"{name}-whole")
    finish(alone, wanted.parent)
    faults: list[str] = []
    moments: list[float] = []
    rounds = 0
    with tqdm(total=times, desc=name) as bar:
        while len(moments) < times and not faults:
            rounds += 1
            out = prepare(folder / f"{name}-{rounds}")
            process, started = start(command, out.parent), time.monotonic()
            known: dict[str, tuple[int, int]] = {}
            hit: Counter[str] = Counter()
            deadline = time.monotonic() + draw.uniform(0, 2)
            while process.poll() is None:
                time.sleep(0.02)
                try:
                    leases = [*out.glob(".leases/*.lease"), *out.glob(".*.parts/.leases/*.lease")]
                except FileNotFoundError:
                    continue  # the folder went while it was read
                if time.monotonic() < deadline or not leases or len(moments) == times:
                    continue
                try:
                    held = json.loads(draw.choice(leases).read_text())
                    # What kills its process three times is given up, and the driver has no name.
                    if hit[held["task"]] == 2 or not held["worker"]:
                        continue
                    os.kill(held["pid"], signal.SIGKILL)
                except (OSError, ValueError):
                    continue  # given back meanwhile
                hit[held["task"]] += 1
                moments.append(round(time.monotonic() - started, 2))
                bar.update()
                now = finished(out)
                faults += [
                    f"{each} was made twice" for each in known if now.get(each) != known[each]
                ]
                known = now
                deadline = time.monotonic() + draw.uniform(3, 10)
            now = finished(out)
            faults += [f"{each} was made twice" for each in known if now.get(each) != known[each]]
            if process.returncode != 0:
                faults.append((out.parent / "errors.txt").read_text()[-500:])
            faults += compared(contents(wanted), contents(out), out.parent.name)
    return {"killed": len(moments), "seconds": moments, "runs": rounds, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*COMMANDS, *WORKERS])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seed": options.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else [*COMMANDS, *WORKERS]:
            torture = tortured if name in COMMANDS else decimated
            result[name] = torture(name, options.times, options.seed, Path(folder))
    print(json.dumps(result, indent=2))
    if options.output is not None:
        with whole_file(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(each["faults"] for each in result.values() if isinstance(each, dict)))


if __name__ == "__main__":
    main()
