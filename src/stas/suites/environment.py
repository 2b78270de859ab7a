"""VBench's environment: made apart from this one, since its packages are years older."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stas.suites.run import load_json
from stas.suites.vbench import DIMENSIONS, FLICKERING, INFO, RAFT, VERSION, Dimension, Need

PYTHONS = ("3.10", "3.11")  # for tokenizers of those years has wheels for no later one
PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", f"vbench=={VERSION}", "setuptools<81", "wheel")
RUNNER = Path(__file__).with_name("vbench_runner.py")
LOG_LINES = 12  # of a failed process that are told
BERT = "bert-base-uncased"


@dataclass(frozen=True)
class Environment:
    """VBench's environment, and where its models lie.

    Args:
        folder: Of the virtual environment.
        cache: VBench's cache folder; by default $VBENCH_CACHE_DIR, else ~/.cache/vbench.
    """

    folder: Path
    cache: Path | None = None

    @property
    def models(self) -> Path:
        """VBench's cache folder."""
        default = Path.home() / ".cache" / "vbench"
        return self.cache or Path(os.environ.get("VBENCH_CACHE_DIR") or default)

    @property
    def python(self) -> Path:
        """Its Python.

        Raises:
            FileNotFoundError: There is no environment.
        """
        for path in (self.folder / "bin" / "python", self.folder / "Scripts" / "python.exe"):
            if path.is_file():
                return path.absolute()  # not resolved: the link says which environment it is
        raise FileNotFoundError(
            f"{str(self.folder)!r} is no environment of Python. `stas bench setup "
            f"{self.folder}` makes it; --env names another."
        )

    @property
    def info(self) -> Path:
        """VBench's list of prompts.

        Raises:
            FileNotFoundError: There is no environment, or it is without the package.
        """
        _ = self.python
        for pattern in (
            f"lib/python*/site-packages/vbench/{INFO}",
            f"Lib/site-packages/vbench/{INFO}",
        ):
            for path in self.folder.glob(pattern):
                return path
        raise FileNotFoundError(
            f"The environment {str(self.folder)!r} is without the package vbench. `stas bench "
            f"setup {self.folder}` installs it."
        )

    def run(self, job: Mapping[str, Any], log: IO[bytes] | None = None) -> dict[str, Any]:
        """Do a job in a process of its own.

        Args:
            job: See `vbench_runner.py`.
            log: Where its output goes.

        Returns:
            What it found.

        Raises:
            FileNotFoundError: There is no environment.
            RuntimeError: It failed; the message has the last lines of its output.
        """
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as own:
            output = log or own
            started = output.tell()
            out, path = Path(folder, "found.json"), Path(folder, "job.json")
            path.write_text(json.dumps({**job, "out": str(out)}), encoding="utf-8")
            done = subprocess.run(
                # Isolated, since what leads this Python to its packages would lead that one astray.
                [str(self.python), "-I", str(RUNNER), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._variables(),
                check=False,
            )
            if done.returncode == 0 and out.is_file():
                found: dict[str, Any] = load_json(out)
                return found
            output.seek(started)
            lines = output.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
        raise RuntimeError(
            f"VBench's process ended with exit code {done.returncode}:\n" + "\n".join(lines)
        )

    def _variables(self) -> dict[str, str]:
        return {
            **os.environ,
            "VBENCH_CACHE_DIR": str(self.models.absolute()),
            # Its checkpoints are pickles of those years, which the user fetched.
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
            # What is missing is an error here, not a download in the middle.
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }

    def missing(self, dimension: Dimension) -> list[str]:
        """What a dimension lacks, in words: which file, where it goes, where it comes from."""
        lacks = [
            self._lacks(need) for need in dimension.needs if not (self.models / need.path).exists()
        ]
        if dimension.bert and not _has_bert():
            lacks.append(
                f"{BERT} is missing in Hugging Face's cache; `hf download {BERT}` fetches it"
            )
        return lacks

    def _lacks(self, need: Need) -> str:
        return f"{self.models / need.path} is missing; it comes from {need.source}"

    def doctor(self) -> Doctor:
        """Look at every dimension.

        Raises:
            FileNotFoundError: There is no environment, or it is without the package.
            RuntimeError: Its Python fails.
        """
        _ = self.info
        lacking = {each.name: self.missing(each) for each in DIMENSIONS.values()}
        # Some fetch files when they are imported, so those that lack some are not.
        whole = [name for name, lacks in lacking.items() if not lacks]
        needy = [each.name for each in DIMENSIONS.values() if each.detectron2]
        found = self.run({"task": "look", "dimensions": whole})
        if not (self.models / RAFT.path).exists():
            lacking[f"{FLICKERING}, by its filter"] = [self._lacks(RAFT)]
        for name, error in found["errors"].items():
            lacking[name].append(f"it can't be imported: {error}")
        if found["versions"]["detectron2"] is None:
            for name in needy:
                lacking[name].append(
                    "the package detectron2 is missing; build it from its source with `stas bench "
                    f"setup {self.folder} --detectron2 SRC`"
                )
        return Doctor(lacking, found["versions"], found["cuda"])


@dataclass(frozen=True)
class Doctor:
    """What `Environment.doctor` found.

    Args:
        lacking: By dimension, what it lacks, in words; nothing when it is ready.
        versions: Of the packages in the environment, None for one that is missing.
        cuda: Whether its torch has a GPU.
    """

    lacking: Mapping[str, Sequence[str]]
    versions: Mapping[str, str | None]
    cuda: bool

    @property
    def ready(self) -> bool:
        """Whether every dimension is."""
        return not any(self.lacking.values())


def setup_commands(
    folder: Path, python: str | None = None, detectron2: str | None = None
) -> list[list[str]]:
    """The commands that make VBench's environment, or what it lacks.

    Args:
        folder: Of the environment.
        python: Path or version of the Python that it is made with; this one by default.
        detectron2: detectron2's source, which is built: a folder, or what pip takes.

    Example:
        >>> [command[-1] for command in setup_commands(Path("env"), detectron2="src/detectron2")]
        ['env', 'wheel', 'src/detectron2']
    """
    uv, maker = shutil.which("uv"), python or sys.executable
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    make = (
        [uv, "venv", "--python", maker, str(folder)] if uv else [maker, "-m", "venv", str(folder)]
    )
    install = (
        [uv, "pip", "install", "--python", str(inside)]
        if uv
        else [str(inside), "-m", "pip", "install"]
    )
    commands = [] if inside.is_file() else [make]
    commands.append([*install, *PACKAGES])
    if detectron2:
        # It imports torch while it is built.
        commands.append([*install, "--no-build-isolation", detectron2])
    return commands


def set_up(folder: Path, python: str | None = None, detectron2: str | None = None) -> Environment:
    """Make VBench's environment; called again it goes on.

    Args:
        folder: Of the environment.
        python: See `setup_commands`.
        detectron2: See there.

    Raises:
        FileExistsError: The folder holds other things.
        ValueError: VBench's packages have no wheels for that Python.
        RuntimeError: A command failed.
    """
    environment = Environment(folder)
    inside = (folder / "pyvenv.cfg").is_file()
    if folder.exists() and not inside and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is there, and is no environment of Python.")
    for command in setup_commands(folder, python, detectron2):
        if "install" in command:
            _check_python(str(environment.python))
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as error:
            raise RuntimeError(f"{' '.join(command)} can't be run: {error}") from error
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with exit code {code}.")
    return environment


def _check_python(python: str) -> None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if (found := done.stdout.strip()) not in PYTHONS:
        raise ValueError(
            f"{python} is Python {found or 'of no version'}, and VBench's packages have wheels for "
            f"{' and '.join(PYTHONS)}. Remove the environment, and name such a Python by --python."
        )


def _has_bert() -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(BERT, "config.json"), str)
