"""Which requests a server for this machine's browsers answers."""

from __future__ import annotations

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")


def is_own_host(host: str) -> bool:
    """Whether a request names this machine: a name that was made to lead here is another's.

    Args:
        host: The header Host, with its port or without.

    Example:
        >>> is_own_host("localhost:8765"), is_own_host("evil.example")
        (True, False)
    """
    return host in HOSTS or host.rpartition(":")[0] in HOSTS


def is_own_origin(origin: str | None, host: str) -> bool:
    """Whether a request was sent by a page of the server itself.

    Args:
        origin: The header Origin, which browsers send with what a page's script sends.
        host: The header Host.

    Example:
        >>> is_own_origin("http://localhost:8765", "localhost:8765")
        True
    """
    return origin == f"http://{host}"
