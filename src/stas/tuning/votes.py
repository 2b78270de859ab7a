"""Votes of `stas rate` as measures of a tune: what raters say of a setting beside off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from statistics import fmean
from typing import TYPE_CHECKING

from stas.files import whole_file
from stas.preference.items import Item, read_rated
from stas.preference.votes import Votes, kept_rating
from stas.studies.plan import OFF
from stas.tuning.plan import VOTES

if TYPE_CHECKING:
    from stas.tuning.run import TuneRun

COUNTED = "votes.json"
Numbers = dict[str, dict[str, float]]  # of one sample, by setting, then by measure


class Ballot:
    """The votes on a tune's pairs, each counted once: the first time that its round is decided.

    A vote that comes later does not change what was decided by those before.

    Args:
        run: The tune; its measures of votes are counted.
    """

    def __init__(self, run: TuneRun) -> None:
        self._run = run
        self._path = run.folder / COUNTED

    def counted(self) -> dict[str, Numbers]:
        """What was counted so far, by sample."""
        if not self._path.is_file():
            return {}
        found: dict[str, Numbers] = json.loads(self._path.read_text(encoding="utf-8"))
        return found

    def count(self, made: TuneRun) -> list[Item]:
        """Count the votes on the pairs of a round, where all of them have some.

        A setting's number is the mean over raters of 1 for its video, -1 for the one without
        steering and 0 for a tie, also where both videos are equal; that of off is 0.

        Args:
            made: The round, whose videos are finished.

        Returns:
            The pairs that lack votes; nothing was counted where there are any.

        Raises:
            ValueError: The votes ask another question, or are of other videos.
        """
        asked = self._run.tune.voted
        votes = self._votes()
        found: dict[str, Numbers] = {}
        missing = []
        for sample in made.samples:
            found[sample.name] = {OFF: dict.fromkeys(asked, 0.0)}
            shown = self._digest(sample.name, OFF)
            for setting in made.settings[1:]:
                item = Item(sample.name, OFF, setting.name)
                numbers = found[sample.name][setting.name] = {}
                for measure in asked:
                    scores = votes.get((item, VOTES[measure]), [])
                    if shown == self._digest(sample.name, setting.name):
                        scores = [0]
                    if scores:
                        numbers[measure] = fmean(scores)
                if len(numbers) < len(asked):
                    missing.append(item)
        if not missing:
            with whole_file(self._path, alone=True) as temporary:
                temporary.write_text(json.dumps(self.counted() | found), encoding="utf-8")
        return missing

    def _digest(self, sample: str, setting: str) -> str:
        digest: str = self._run.finished[sample, setting].manifest.frames["sha256"]
        return digest

    def _votes(self) -> Mapping[tuple[Item, str], list[int]]:
        folder = self._run.folder
        rating = kept_rating(folder)
        if rating is None:
            return {}
        questions = [VOTES[measure] for measure in self._run.tune.voted]
        if lacking := sorted(set(questions) - set(rating.questions)):
            raise ValueError(
                f"The votes in {folder} say nothing of {', '.join(lacking)}, which decides: they "
                f"are of {', '.join(rating.questions)}. Move the votes away and rate anew."
            )
        with closing(Votes(read_rated(folder), rating)) as votes:
            every = votes.all()
        found: dict[tuple[Item, str], list[int]] = {}
        for vote in every:
            if not vote.repeat:
                found.setdefault((vote.item, vote.question), []).append(vote.score)
        return found
