"""A real ComfyUI server with the pack, on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACK = ROOT / "comfyui"
STARTS = 240  # seconds at most


class Server:
    """A running server.

    Args:
        port: Of the loopback.
        folder: Its base directory.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self.url, self.folder = f"http://127.0.0.1:{port}", folder

    @property
    def log(self) -> str:
        """What it said."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def ask(self, path: str, data: Any = None) -> Any:
        """GET, or POST of JSON."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue a prompt, wait, and give its entry of the history."""
        number = self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        return self.wait(number)

    def wait(self, number: str) -> dict[str, Any]:
        """The entry of the history of a queued prompt, once it has ended."""
        deadline = time.monotonic() + STARTS
        while time.monotonic() < deadline:
            if found := self.ask(f"/history/{number}"):
                return dict(found[number])
            time.sleep(0.3)
        raise TimeoutError(self.log[-3000:])


@contextmanager
def serving(folder: Path, install: str = "copy") -> Iterator[Server]:
    """Start a server with the pack installed.

    Args:
        folder: Its base directory, which is made.
        install: "copy", the folder; "link", to it in a clone of the repository; "registry", what
            the registry's archive holds.
    """
    nodes = folder / "custom_nodes"
    nodes.mkdir(parents=True)
    for each in ("models", "input", "output", "user"):
        (folder / each).mkdir()
    if install == "link":
        (nodes / "stas").symlink_to(PACK, target_is_directory=True)
    else:
        skipped = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(
            PACK, nodes / ("stas" if install == "copy" else "stas-steering"), ignore=skipped
        )
    shutil.copytree(Path(__file__).with_name("tiny_pack"), nodes / "stas_tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    comfy = Path(os.environ["COMFYUI_DIR"])
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "STAS_ZOO": str(Path(__file__).with_name("zoo.py")),
        "STAS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        *(sys.executable, str(comfy / "main.py"), "--cpu", "--listen", "127.0.0.1"),
        *("--port", str(port), "--base-directory", str(folder), "--disable-api-nodes"),
        *("--database-url", "sqlite:///:memory:", "--use-pytorch-cross-attention"),
    ]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=comfy, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        server = Server(port, folder)
        try:
            deadline = time.monotonic() + STARTS
            while True:
                try:
                    server.ask("/system_stats")
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(server.log[-3000:]) from None
                    time.sleep(0.5)
            yield server
        finally:
            process.terminate()
            process.wait(30)
