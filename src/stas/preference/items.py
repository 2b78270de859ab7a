"""What is rated: pairs of a run's videos, and the order and sides in which a rater sees them."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import av
import numpy as np

from stas.checks import expect
from stas.measures.measure import Measures
from stas.pipelines.manifest import Manifest
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import EXACT, MANIFEST, VIDEO, VideoFiles
from stas.studies.compare import ON, Comparison
from stas.studies.plan import OFF, Setting, Study, frozen
from stas.studies.run import Run
from stas.studies.study import StudyRun

TUNE = "tune"  # the noun of `stas.tuning`'s runs, whose folder is that of its study
GAP = 5  # pairs at least between a pair and its repeat, where there are as many


@dataclass(frozen=True, order=True)
class Item:
    """One pair: a sample, by name, under two settings in the order of the run."""

    sample: str
    first: str
    second: str


@dataclass(frozen=True)
class Rated:
    """What of a run can be rated.

    Args:
        folder: Of the run.
        settings: Names of the settings, in the run's order.
        samples: Those that are finished under all of these settings; of a tune, which makes each
            under some, under `beside` and another.
        videos: The mp4 of each sample and setting, by their names.
        digests: The SHA-256 of its frames, as its manifest says.
        left_out: Why videos of the folder are not rated, in words; empty when all are.
        beside: The setting that all others are compared with; None to compare all of them.
    """

    folder: Path
    settings: tuple[str, ...]
    samples: tuple[Sample, ...]
    videos: Mapping[tuple[str, str], Path]
    digests: Mapping[tuple[str, str], str]
    left_out: tuple[str, ...] = ()
    beside: str | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two settings that are compared."""
        every = combinations(self.settings, 2)
        return [pair for pair in every if self.beside is None or self.beside in pair]

    @property
    def items(self) -> list[Item]:
        """Every two settings of every sample that has videos of both, which differ."""
        found = []
        for sample in self.samples:
            for first, second in self.pairs:
                digests = {self.digests.get((sample.name, each)) for each in (first, second)}
                if len(digests) == 2 and None not in digests:
                    found.append(Item(sample.name, first, second))
        return found


@dataclass(frozen=True)
class Showing:
    """One time that a rater sees a pair.

    Args:
        item: The pair.
        repeat: 0, or 1 for the second time, with the sides swapped.
        left: The setting on the left.
        right: The setting on the right.
        key: What a page calls it; says nothing of it.
    """

    item: Item
    repeat: int
    left: str
    right: str
    key: str


def read_rated(folder: str | os.PathLike[str], settings: Sequence[str] = ()) -> Rated:
    """Read what of a folder can be rated; nothing is changed.

    Args:
        folder: Of a comparison, study or tune, which need not be finished; or of `stas app`.
        settings: Names of two settings or more; all by default.

    Raises:
        FileNotFoundError: There is no such folder, or it holds none of these.
        ValueError: Its record can't be read, a setting is unknown, there are fewer than two, a
            video is not the one that its name says, no sample is whole, or no pair differs.

    Example:
        >>> read_rated("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: 'nowhere' holds no comparison, no study and no pair: expected ...
    """
    run = _read_run(Path(folder))
    if run is None:
        return _read_pairs(Path(folder), settings)
    known = [setting.name for setting in run.settings]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"There is no run {unknown[0]!r} in {str(folder)!r}: it has {known}.")
    chosen = [each for each in run.settings if not settings or each.name in settings]
    if len(chosen) < 2:
        raise ValueError(
            f"Two runs at least are compared, but got {[each.name for each in chosen]}: "
            f"{str(folder)!r} has {known}."
        )
    beside = OFF if run.noun == TUNE else None
    videos, digests, left_out = {}, {}, []
    for sample in run.samples:
        files = {s.name: run.files(n, sample) for n, s in enumerate(run.settings) if s in chosen}
        read = {name: each.read() for name, each in files.items()}
        found = {name: each.manifest for name, each in read.items() if each is not None}
        if beside is not None:
            files = {name: files[name] for name in found}
            if beside not in found or len(found) == 1:
                continue
        if missing := [files[name].path(VIDEO).name for name in files if name not in found]:
            left_out.append(f"{sample.name}: not finished, or broken: {', '.join(missing)}")
            continue
        for setting in (each for each in chosen if each.name in found):
            place = files[setting.name].path(MANIFEST)
            _check_manifest(found[setting.name], place, sample, setting)
        _check_pictures(files)
        for name, manifest in found.items():
            videos[sample.name, name] = files[name].path(VIDEO)
            digests[sample.name, name] = manifest.frames["sha256"]
    own = {run.files(n, s).path(VIDEO) for n, _ in enumerate(run.settings) for s in run.samples}
    for place in sorted({path.parent for path in own}):
        stray = sorted(path.name for path in place.glob("[!.]*.mp4") if path not in own)
        if stray:
            left_out.append(f"not of this {run.noun}: {', '.join(stray)} in {place.name}")
    samples = tuple(s for s in run.samples if (s.name, chosen[0].name) in videos)
    names = tuple(setting.name for setting in chosen)
    rated = Rated(Path(folder), names, samples, videos, digests, tuple(left_out), beside)
    if not samples:
        raise ValueError(
            f"No sample of {str(folder)!r} has a whole video of each of {', '.join(names)}: "
            f"{'; '.join(left_out)}. Finish the {run.noun} first."
        )
    if not rated.items:
        raise ValueError(
            f"No two videos of a sample in {str(folder)!r} differ in any pixel: there is nothing "
            "to prefer."
        )
    return rated


def showings(
    items: Sequence[Item], rater: str, secret: str, *, count: int | None, repeats: float
) -> list[Showing]:
    """What a rater is shown, in order: pairs at random, sides at random, and some of them again.

    All is decided by the secret, the rater and each pair by itself, so it is the same after a
    restart, and pairs that are finished later change no other's side.

    Args:
        items: All pairs.
        rater: Who.
        secret: Of the votes.
        count: How many pairs; None for all.
        repeats: The share of them that is shown again with sides swapped, 0 to 1; `GAP` pairs lie
            between, where there are as many.

    Example:
        >>> items = [Item("circle", "off", "on")]
        >>> again = showings(items, "ann", "secret", count=None, repeats=1.0)
        >>> [each.repeat for each in again], again[0].left == again[1].right
        ([0, 1], True)
    """

    def draw(item: Item, what: str) -> float:
        return Random("\n".join((secret, rater, *_parts(item), what))).random()

    def shown(item: Item, repeat: int) -> Showing:
        swapped = (draw(item, "side") < 0.5) != bool(repeat)
        left, right = (item.second, item.first) if swapped else (item.first, item.second)
        key = token(secret, rater, *_parts(item), str(repeat))
        return Showing(item, repeat, left, right, key)

    order = sorted(items, key=lambda item: draw(item, "order"))[:count]
    wanted = round(repeats * len(order)) or int(repeats > 0)
    gap = min(GAP, len(order) - wanted)
    places = [(float(place), shown(item, 0)) for place, item in enumerate(order)]
    # Repeats lie among the pairs and not behind them, so that who stops early has some too.
    early = sorted(range(len(order) - gap), key=lambda place: draw(order[place], "repeat"))
    for place in early[:wanted]:
        first = place + gap + 0.5
        later = first + draw(order[place], "place") * (len(order) - first)
        places.append((later, shown(order[place], 1)))
    return [showing for _, showing in sorted(places, key=lambda pair: pair[0])]


def token(secret: str, *parts: str) -> str:
    """A name that can't be told from a random one without the secret, and is the same each time."""
    return hmac.new(secret.encode(), "\n".join(parts).encode(), "sha256").hexdigest()[:32]


def _parts(item: Item) -> tuple[str, str, str]:
    return item.sample, item.first, item.second


def _read_run(folder: Path) -> Run | None:
    """The run of a folder, as its record says; None without a record."""
    for noun, run in ((Comparison.noun, _comparison), (StudyRun.noun, _study), (TUNE, _tune)):
        record = folder / f"{noun}.json"
        if not record.is_file():
            continue
        try:
            data = json.loads(record.read_text(encoding="utf-8"))
            expect(data["format"] == f"stas.{noun}/1", f"expected the format stas.{noun}/1")
            return run(folder, data[noun])
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{record} is no record of a {noun}: {error}") from error
    return None


def _read_pairs(folder: Path, settings: Sequence[str]) -> Rated:
    """The pairs that `stas app` made: NAME-off and NAME-on, of one prompt and seed.

    How a pair was steered is its own matter, so votes are of steering as such [our choice].
    """
    names = OFF, ON
    expect(set(settings) <= set(names), f"these are pairs of {', '.join(names)}: leave --run out")
    samples, videos, digests = [], {}, {}
    for place in sorted(folder.glob(f"*-{OFF}{MANIFEST}")):
        stem = place.name.removesuffix(f"-{OFF}{MANIFEST}")
        files = {name: VideoFiles(folder / f"{stem}-{name}") for name in names}
        found = {name: read.manifest for name in names if (read := files[name].read()) is not None}
        seen = {(each.arguments["prompt"], each.seed) for each in found.values()}
        if len(found) == 2 and len(seen) == 1:
            samples.append(Sample(stem, *seen.pop()))
            for name, manifest in found.items():
                videos[stem, name] = files[name].path(VIDEO)
                digests[stem, name] = manifest.frames["sha256"]
    rated = Rated(folder, names, tuple(samples), videos, digests)
    if not rated.items:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no comparison, no study and no pair: expected comparison.json "
            "or study.json, as in the folder of `stas compare` or `stas study`, or pairs of "
            "`stas app` that differ."
        )
    return rated


def _comparison(folder: Path, plan: Mapping[str, Any]) -> Run:
    return Comparison(
        folder=folder,
        settings=[Setting(name, config) for name, config in plan["settings"]],
        samples=[Sample(name, prompt, seed) for name, prompt, seed, *_ in plan["samples"]],
        arguments=plan["arguments"],
        measured=(),
        model=plan["model"],
        measures=Measures(),
    )


def _study(folder: Path, plan: Mapping[str, Any], kind: type[StudyRun] = StudyRun) -> Run:
    study = Study(**frozen(plan))
    return kind(
        folder=folder,
        settings=study.settings(),
        samples=study.samples(),
        arguments=study.arguments,
        measured=(),
        study=study,
    )


class _TuneRun(StudyRun):
    """A tune's videos, which lie as those of its study."""

    noun: ClassVar[str] = TUNE


def _tune(folder: Path, plan: Mapping[str, Any]) -> Run:
    return _study(folder, plan["study"], _TuneRun)


def _check_manifest(manifest: Manifest, place: Path, sample: Sample, setting: Setting) -> None:
    """See that a video is the one that its name says."""
    steering, config = manifest.steering, setting.config
    if setting.dims_class is not None and steering is not None and config is not None:
        # The numbers that stand for a class are known when the study is under way.
        steering, config = ({**each, "dims": None} for each in (steering, config))
    for what, is_there, wanted in (
        ("prompt", manifest.arguments["prompt"], sample.prompt),
        ("seed", manifest.seed, sample.seed),
        ("steering", _plain(steering), _plain(config)),
    ):
        if is_there != wanted:
            raise ValueError(
                f"{place} says another {what} than the run does of "
                f"{setting.name} of {sample.name}: {is_there!r} and not {wanted!r}. Files were "
                "renamed or come from another run: remove them and go on with the run."
            )


def _plain(config: Mapping[str, Any] | None) -> Any:
    return json.loads(json.dumps(config))


def _check_pictures(files: Mapping[str, VideoFiles]) -> None:
    """See that each mp4 shows its own exact frames, where there are any, and not another's."""
    if any(EXACT not in each.kinds for each in files.values()):
        return
    exact = {name: _first_frame(each.path(EXACT)) for name, each in files.items()}
    for name, each in files.items():
        video = each.path(VIDEO)
        seen = _first_frame(video)
        far = {other: float(np.square(seen - frame).mean()) for other, frame in exact.items()}
        nearest = min(far, key=lambda other: far[other])
        # Half: compression alone never makes another's frame so much nearer than its own.
        if far[nearest] < far[name] / 2:
            raise ValueError(
                f"{video} does not show {name}, but {nearest}: files were renamed. Remove its "
                f"manifest {each.path(MANIFEST).name} and go on with the run."
            )


def _first_frame(path: Path) -> Any:
    with av.open(f"file:{path.absolute()}") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return frame.astype(np.float32)
