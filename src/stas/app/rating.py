"""The page of `stas rate` over what the app made, on a port of its own."""

from __future__ import annotations

import threading
from pathlib import Path

from stas.preference.items import read_rated
from stas.preference.server import RatingServer
from stas.preference.votes import Rating, Votes, kept_rating


class RatingPage:
    """Serves blind votes on the pairs of a folder.

    Args:
        folder: Of the app.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._served: tuple[RatingServer, Votes] | None = None

    def open(self) -> str:
        """Serve all pairs that are there now, in place of those before; the address.

        Raises:
            FileNotFoundError: There is no pair.
            OSError, ValueError: The pairs or the votes can't be read.
        """
        rated = read_rated(self._folder)
        votes = Votes(rated, kept_rating(self._folder) or Rating(settings=rated.settings))
        port = 0
        if self._served is not None:
            server, before = self._served
            port = server.server_address[1]  # so that pages that are open go on
            server.shutdown()
            server.server_close()
            before.close()
        server = RatingServer(votes, port)
        self._served = server, votes
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.url
