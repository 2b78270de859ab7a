"""Votes, in SQLite: each is on the disk before it is answered, and survives a kill."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from stas.checks import expect, is_whole, one_of
from stas.preference.items import Item, Rated, Showing, showings

FILE = "votes.sqlite"
FORMAT = "stas.votes/1"
TIE = "tie"
CHOICES = ("left", "right", TIE)
LONGEST_RATER = 40  # characters

QUESTIONS = {
    "quality": "Which video looks better?",
    "motion": "In which video is the motion more natural?",
    "alignment": "Which video shows better what the text says?",
}

_TABLES = """
CREATE TABLE rating (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE videos (
    sample TEXT NOT NULL, setting TEXT NOT NULL, sha256 TEXT NOT NULL,
    PRIMARY KEY (sample, setting)
);
CREATE TABLE votes (
    rater TEXT NOT NULL, sample TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
    question TEXT NOT NULL, repeat INTEGER NOT NULL, left TEXT NOT NULL, preferred TEXT,
    time TEXT NOT NULL,
    UNIQUE (rater, sample, first, second, question, repeat)
);
"""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What raters are asked: the same for all that vote in a folder.

    Args:
        settings: Names of the settings that are compared.
        questions: Of QUESTIONS, in order.
        count: How many pairs each rater is shown; None for all.
        repeats: The share of them that is shown again with sides swapped, 0 to 1.

    Raises:
        ValueError: Another question, count or share.

    Example:
        >>> Rating(settings=("off", "on")).questions
        ('quality', 'motion', 'alignment')
    """

    settings: tuple[str, ...]
    questions: tuple[str, ...] = tuple(QUESTIONS)
    count: int | None = None
    repeats: float = 0.1

    def __post_init__(self) -> None:
        for name in ("settings", "questions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        expect(bool(self.questions), f"there is no question. Known: {', '.join(QUESTIONS)}")
        expect(len(set(self.questions)) == len(self.questions), "a question stands there twice")
        for question in self.questions:
            one_of("question", question, QUESTIONS)
        fits = self.count is None or is_whole(self.count, 1)
        expect(fits, f"count must be 1 or more, but got {self.count!r}")
        fits = isinstance(self.repeats, int | float) and 0 <= self.repeats <= 1
        expect(fits, f"repeats must be a share from 0 to 1, but got {self.repeats!r}")


@dataclass(frozen=True)
class Vote:
    """One answer.

    Args:
        rater: Who.
        item: The pair.
        question: Of QUESTIONS.
        repeat: 0, or 1 for the second time.
        left: The setting that was on the left.
        preferred: The setting that was chosen; None for a tie.
    """

    rater: str
    item: Item
    question: str
    repeat: int
    left: str
    preferred: str | None

    @property
    def score(self) -> int:
        """1 for the second setting, -1 for the first, 0 for a tie."""
        return (self.preferred == self.item.second) - (self.preferred == self.item.first)


def check_rater(rater: object) -> str:
    """The name of a rater as it is kept.

    Raises:
        ValueError: No name: empty, too long, or with characters that can't be seen.

    Example:
        >>> check_rater(" Ann ")
        'Ann'
    """
    name = rater.strip() if isinstance(rater, str) else ""
    if not 0 < len(name) <= LONGEST_RATER or not name.isprintable():
        raise ValueError(
            f"A rater's name has 1 to {LONGEST_RATER} letters, digits or spaces, but got {rater!r}."
        )
    return name


class Votes:
    """The votes of a run's folder. Safe for several threads, and for several processes.

    Args:
        rated: What is rated.
        rating: What raters are asked. Of votes that are there already only what they asked will do.

    Raises:
        ValueError: The file is no file of votes, asks something else, or its votes are of other
            videos: the message says which.
        OSError: It can't be read or written.
    """

    def __init__(self, rated: Rated, rating: Rating) -> None:
        self.rated, self.rating = rated, rating
        self.path = rated.folder / FILE
        self._lock = Lock()
        with _told(self.path):
            self._database = sqlite3.connect(
                self.path, timeout=10, isolation_level=None, check_same_thread=False
            )
        try:
            with _told(self.path):
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._begin()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """End; all votes are on the disk already."""
        self._database.close()

    def showings(self, rater: str) -> list[Showing]:
        """What a rater is shown, in order."""
        return showings(
            self.rated.items,
            rater,
            self.secret,
            count=self.rating.count,
            repeats=self.rating.repeats,
        )

    def add(self, rater: str, showing: Showing, question: str, choice: str) -> None:
        """Keep an answer; another one to the same question replaces it.

        Raises:
            ValueError: Another rater, question or choice than there are.
            OSError: It can't be written.
        """
        rater = check_rater(rater)
        one_of("question", question, self.rating.questions)
        one_of("choice", choice, CHOICES)
        preferred = {"left": showing.left, "right": showing.right, TIE: None}[choice]
        item, now = showing.item, datetime.now().astimezone().isoformat(timespec="seconds")
        row = (item.sample, item.first, item.second, question, showing.repeat, showing.left)
        with self._transaction():
            if _read_values(self._database, self.path)["rating"] != self._rating:
                raise ValueError(
                    f"Another process has begun another rating in {self.path}: start this one "
                    "again."
                )
            self._database.execute(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (rater, sample, first, second, question, repeat) DO UPDATE SET "
                "left = excluded.left, preferred = excluded.preferred, time = excluded.time",
                (rater, *row, preferred, now),
            )

    def all(self) -> list[Vote]:
        """Every vote, in order of raters and pairs."""
        with self._lock, _told(self.path):
            rows = self._database.execute(
                "SELECT rater, sample, first, second, question, repeat, left, preferred "
                "FROM votes ORDER BY rater, sample, first, second, question, repeat"
            ).fetchall()
        return [Vote(row[0], Item(*row[1:4]), *row[4:]) for row in rows]

    def answers(self, rater: str) -> dict[tuple[Item, int], dict[str, str]]:
        """By pair and repeat, what a rater has answered: question and choice."""
        found: dict[tuple[Item, int], dict[str, str]] = {}
        for vote in self.all():
            if vote.rater == rater:
                side = "left" if vote.preferred == vote.left else "right"
                choice = TIE if vote.preferred is None else side
                found.setdefault((vote.item, vote.repeat), {})[vote.question] = choice
        return found

    def _begin(self) -> None:
        """Make the tables, or see that votes that are there are of the same rating and videos."""
        with self._transaction():
            if not self._database.execute("SELECT name FROM sqlite_master").fetchall():
                # One by one: `executescript` would end the transaction.
                for table in filter(str.strip, _TABLES.split(";")):
                    self._database.execute(table)
                values = {"format": FORMAT, "secret": secrets.token_hex(16)}
                self._keep("rating", values.items())
            else:
                values = _read_values(self._database, self.path)
                if _voted(self._database):
                    self._check_rating(json.loads(values["rating"]))
                    self._check_videos()
                else:  # nothing is lost when a rating that nobody voted in is another now
                    self._database.execute("DELETE FROM videos")
            self.secret = values["secret"]
            self._keep("rating", [("rating", self._rating)])
            self._keep("videos", [(*key, each) for key, each in self.rated.digests.items()])

    @property
    def _rating(self) -> str:
        return json.dumps(asdict(self.rating))

    def _keep(self, table: str, rows: Iterable[tuple[str, ...]]) -> None:
        for row in rows:
            places = ", ".join("?" * len(row))
            self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES ({places})", row)

    def _check_rating(self, old: Mapping[str, Any]) -> None:
        new = json.loads(self._rating)
        differing = [
            f"{name} {old[name]} and not {new[name]}" for name in new if old[name] != new[name]
        ]
        if differing:
            raise ValueError(
                f"{self.path} has votes of another rating: {'; '.join(differing)}. Go on with "
                "that, or move the file away."
            )

    def _check_videos(self) -> None:
        """See that the videos are those that were voted on."""
        for *key, digest in self._database.execute("SELECT * FROM videos").fetchall():
            now = self.rated.digests.get((key[0], key[1]))
            if now != digest:
                what = "is not there or not finished any more" if now is None else "was made anew"
                raise ValueError(
                    f"{self.path} has votes of other videos: {key[1]} of {key[0]} {what}. Votes "
                    "are of the videos that were seen: bring those back, or move the file away."
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _told(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def kept_rating(folder: Path) -> Rating | None:
    """What the votes of a folder asked; None where there is no vote.

    Raises:
        ValueError: The file is no file of votes.
        OSError: It can't be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with _told(path):
        # By name and not as a URI, whose characters a folder's name may hold.
        database = sqlite3.connect(path, timeout=10)
        try:
            if not database.execute("SELECT name FROM sqlite_master").fetchall():
                return None
            rating = json.loads(_read_values(database, path)["rating"])
            if not _voted(database):
                return None
        finally:
            database.close()
    return Rating(**rating)


def _voted(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM votes LIMIT 1").fetchone() is not None


def _read_values(database: sqlite3.Connection, path: Path) -> dict[str, str]:
    """What the file says of itself."""
    try:
        values = dict(database.execute("SELECT name, value FROM rating").fetchall())
        rating = json.loads(values["rating"])
        known = {each.name for each in fields(Rating)}
        expect(values["format"] == FORMAT and bool(values["secret"]), f"expected {FORMAT}")
        expect(set(rating) == known, f"expected a rating's {', '.join(sorted(known))}")
    except (KeyError, TypeError, ValueError, sqlite3.OperationalError) as error:
        raise ValueError(f"{path} is no file of votes: {error}") from error
    return values


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as those that everything else here raises."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} can't be read or written: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is no file of votes, or a broken one: {error}") from error
