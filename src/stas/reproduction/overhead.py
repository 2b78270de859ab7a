"""What steering costs, as a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, ClassVar

import torch

from stas.checks import expect, is_whole
from stas.files import whole_file
from stas.pipelines.model import LoadedPipeline
from stas.reproduction.crew import Crew
from stas.reproduction.stage import STAS, Finding, Stage
from stas.studies.differences import paired_difference
from stas.suites.run import load_json
from stas.workers.job import Progress, Report


@dataclass(kw_only=True, repr=False)
class OverheadStage(Stage):
    """What steering costs: videos made off and on in turn, in one process.

    Args:
        rounds: Pairs of videos.
    """

    name: ClassVar[str] = "overhead"
    title: ClassVar[str] = "Overhead"
    rounds: int = 10

    def __post_init__(self) -> None:
        expect(is_whole(self.rounds, 1), f"{self.name}.rounds must be 1 or more")

    @property
    def path(self) -> Path:
        return self.folder / "seconds.json"

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"off": [], "on": []}
        data: dict[str, Any] = load_json(self.path)
        if data.get("arguments") != json.loads(json.dumps(dict(self.model.arguments))):
            raise ValueError(f"{self.path} is of other arguments than the reproduction's.")
        return data

    @property
    def left(self) -> int:
        return 2 * max(0, self.rounds - len(self._read()["on"]))

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        kept = self._read()
        if not self.left:
            return
        loaded = crew.load(self.model)
        device = _device_name(loaded)
        if kept.get("device", device) != device:
            raise ValueError(
                f"{self.path} was measured on {kept['device']}, and this is {device}: seconds of "
                "two machines are no pairs. Remove the file, or go on there."
            )
        call = loaded.arguments({**self.model.arguments, "prompt": self.plan.prompts[0]})
        configs = {"off": None, "on": self.setting(STAS).steering()}

        def seconds(name: str, seed: int) -> float:
            with loaded.steered(configs[name]):
                started = perf_counter()
                loaded.generate(call, seed)  # whose frames are on the host when it returns
                return perf_counter() - started

        self.folder.mkdir(parents=True, exist_ok=True)
        for name in configs:  # the first of each warms up
            seconds(name, self.plan.seed)
        for number in range(len(kept["on"]), self.rounds):
            # Each goes first in every other round, so that neither has the warmer machine.
            names = list(configs)[:: 1 if number % 2 else -1]
            times = {name: seconds(name, self.plan.seed + number) for name in names}
            kept = {
                "device": device,
                "arguments": dict(self.model.arguments),
                **{name: [*kept[name], times[name]] for name in configs},
            }
            with whole_file(self.path, alone=True) as temporary:
                temporary.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            if report is not None:
                report(Progress(2 * (number + 1), 2 * self.rounds, 0, ()))

    def findings(self) -> list[Finding]:
        kept = self._read()
        off, on = kept["off"], kept["on"]
        if not on:
            return []
        found = paired_difference(off, on, words=("faster", "slower"))
        share = found.difference / fmean(off)
        return [
            Finding("seconds of a video, off", fmean(off), n=len(off), words=kept["device"]),
            Finding(
                "seconds added by steering",
                found.difference,
                found.low,
                found.high,
                found.pairs,
                found.words,
            ),
            Finding("added by steering, share", share, n=found.pairs),
        ]


def _device_name(loaded: LoadedPipeline) -> str:
    device = torch.device(loaded.options.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
