"""The socket that the pool listens on."""

import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

BACKLOG: Final = 512
_UNIX: Final = "unix:"


def open_listener(address: str) -> socket.socket:
    """A listening socket at `unix:/path` or `tcp://host:port`, which does not block.

    Raises:
        OSError: another pool listens there, or the address cannot be used.
    """
    if address.startswith(_UNIX):
        listener = _open_unix(Path(address.removeprefix(_UNIX)))
    else:
        parts = urlsplit(address)
        host = parts.hostname or ""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, parts.port or 0), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def unlink_listener(address: str) -> None:
    """Make sure that nobody connects any more to a Unix socket that is about to be closed."""
    if address.startswith(_UNIX):
        Path(address.removeprefix(_UNIX)).unlink(missing_ok=True)


def _open_unix(path: Path) -> socket.socket:
    """A socket at that path, in the place of one that was left behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        except BlockingIOError:  # it listens, and has no room for one more at the moment
            raise OSError(f"another pool listens on {path.name} in this folder") from None
        else:
            raise OSError(f"another pool listens on {path.name} in this folder")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener
