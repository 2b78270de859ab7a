"""The server of `stas rate`: one page, pairs of videos, votes; on this machine alone.

What a rater's browser is given says nothing of which video is which: names in addresses are keyed
hashes, both videos of a pair have the same headers and the same length, and the page shows a pair
when both are there.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from stas.loopback import ADDRESS, is_own_host, is_own_origin
from stas.preference.items import Showing, token
from stas.preference.votes import CHOICES, LONGEST_RATER, QUESTIONS, Votes, check_rater
from stas.studies.html import render

TEMPLATE = Path(__file__).parent / "templates" / "rate.html"
LONGEST_BODY = 4096  # bytes of a vote
SILENCE = 60  # seconds after which a connection that says nothing is closed

Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: Of the answer.
        message: What was wrong.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Session:
    """What one rater's page is given: the pairs in order, and where their videos are.

    Args:
        showings: By key, in order.
        videos: By token, the file and the length that it is filled up to, in bytes.
        sides: By key, the tokens of the left and the right video.
    """

    showings: Mapping[str, Showing]
    videos: Mapping[str, tuple[Path, int]]
    sides: Mapping[str, tuple[str, str]]


class RatingServer(ThreadingHTTPServer):
    """Serves the votes of one folder until `shutdown`.

    Args:
        votes: Where answers are kept, and what is asked.
        port: 1 to 65535, or 0 for any that is free.

    Raises:
        OSError: The port is in use or not allowed.
    """

    daemon_threads = True
    # Elsewhere it would let two servers have the same port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, votes: Votes, port: int) -> None:
        self.votes = votes
        # By sample, the length in bytes that each of its videos is filled up to.
        self.lengths: dict[str, int] = {}
        for (sample, _), path in votes.rated.videos.items():
            length = path.stat().st_size + _BOX.size
            self.lengths[sample] = max(self.lengths.get(sample, 0), length)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise OSError(
                f"Can't serve on port {port}: {error.strerror}. Give another --port, or --port 0 "
                "for any that is free."
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what goes wrong here; that a browser went away is nothing to tell."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where raters go."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def session(self, rater: str) -> Session:
        """What a rater is given; the same again after a restart."""
        secret, found = self.votes.secret, self.votes.showings(rater)
        videos, sides = {}, {}
        for each in found:
            left, right = (token(secret, each.key, side) for side in ("left", "right"))
            sides[each.key] = left, right
            for name, setting in ((left, each.left), (right, each.right)):
                path = self.votes.rated.videos[each.item.sample, setting]
                videos[name] = path, self.lengths[each.item.sample]
        return Session({each.key: each for each in found}, videos, sides)


_BOX = struct.Struct(">I4s")  # the head of an MP4 box: length and name


def filled_up(video: bytes, length: int) -> bytes:
    """An MP4 file with an empty box behind it, so that its length tells nothing.

    Args:
        video: The file.
        length: Of what is given back, in bytes; at least 8 more than the file.

    Raises:
        ValueError: A length that leaves no room for the box.

    Example:
        >>> filled_up(b"video", 16)
        b'video\\x00\\x00\\x00\\x0bfree\\x00\\x00\\x00'
    """
    room = length - len(video)
    if room < _BOX.size:
        raise ValueError(f"{len(video)} bytes can't be filled up to {length}.")
    return video + _BOX.pack(room, b"free") + bytes(room - _BOX.size)


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "stas", ""
    timeout = SILENCE

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what raters do is in the votes."""

    def _answer(self, method: Any) -> None:
        nonce = secrets.token_urlsafe(16)
        try:
            self._check_host()
            status, kind, body = method(nonce)
        except RequestError as error:
            status, kind, body = error.status, "text/plain; charset=utf-8", str(error).encode()
            self.close_connection = True  # a body may be left unread
        except (OSError, ValueError) as error:
            # What is said here may name files, and raters are not to know them.
            print(error, file=sys.stderr)
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
            body = b"That failed; the terminal of stas rate says why. Try again."
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
                "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; "
                "form-action 'self'; frame-ancestors 'none'"
            ),
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _check_host(self) -> None:
        """A page from elsewhere whose name was made to lead here has that name as Host."""
        host = self.headers.get("Host", "")
        if not is_own_host(host):
            raise RequestError(
                HTTPStatus.FORBIDDEN, f"This page is at {self.server.url}, not at {host!r}."
            )

    def _get(self, nonce: str) -> Answer:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if address.path == "/":
            # As a list, for objects lose their order in templates.
            asked = [(name, QUESTIONS[name]) for name in self.server.votes.rating.questions]
            text = render(TEMPLATE, nonce=nonce, longest=LONGEST_RATER, questions=asked)
            return HTTPStatus.OK, "text/html; charset=utf-8", text.encode()
        folder, _, name = address.path.removeprefix("/").partition("/")
        if address.path == "/session":
            return HTTPStatus.OK, "application/json", json.dumps(self._session(query)).encode()
        if folder == "video":
            session = self.server.session(self._rater(query.get("rater", [""])[0]))
            if name in session.videos:
                path, length = session.videos[name]
                return HTTPStatus.OK, "video/mp4", filled_up(path.read_bytes(), length)
        raise RequestError(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _post(self, nonce: str) -> Answer:
        # Browsers say where a request comes from, and pages of others can't change that.
        if not is_own_origin(self.headers.get("Origin"), self.headers.get("Host", "")):
            raise RequestError(HTTPStatus.FORBIDDEN, "Votes come from the page itself alone.")
        if self.headers.get("Content-Type") != "application/json" or self.path != "/vote":
            raise RequestError(HTTPStatus.BAD_REQUEST, "A vote is JSON, sent to /vote.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= LONGEST_BODY):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"A vote has up to {LONGEST_BODY} bytes.")
        try:
            vote = json.loads(self.rfile.read(int(length)))
            rater, key = self._rater(vote["rater"]), vote["key"]
            question, choice = vote["question"], vote["choice"]
            showing = self.server.session(rater).showings[key]
            asked = question in self.server.votes.rating.questions and choice in CHOICES
        except (KeyError, RecursionError, TypeError, ValueError):
            asked = False
        if not asked:
            raise RequestError(HTTPStatus.BAD_REQUEST, "That is no vote on a pair of this rater.")
        self.server.votes.add(rater, showing, question, choice)
        return HTTPStatus.OK, "application/json", b"{}"

    def _rater(self, name: object) -> str:
        try:
            return check_rater(name)
        except ValueError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error

    def _session(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        rater = self._rater(query.get("rater", [""])[0])
        session, answers = self.server.session(rater), self.server.votes.answers(rater)
        prompts = {sample.name: sample.prompt for sample in self.server.votes.rated.samples}
        return {
            "rater": rater,
            "showings": [
                {
                    "key": key,
                    "prompt": prompts[showing.item.sample],
                    "videos": session.sides[key],
                    "answers": answers.get((showing.item, showing.repeat), {}),
                }
                for key, showing in session.showings.items()
            ],
        }
