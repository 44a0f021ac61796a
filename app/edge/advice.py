"""What can be used, and should rather not be: told when the settings are checked, and at each start."""

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from app.edge.config import EdgeConfig

_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH


def advice(config: EdgeConfig) -> Iterator[str]:
    """A sentence for each thing that lets others open doors or see faces."""
    server = urlsplit(config.server.url)
    if server.scheme == "http" and not _is_here(server.hostname or ""):
        yield (
            "server.url: by http, whoever is on the way to the server learns the key and the faces, and says who may open"
            " doors; use https"
        )
    if not config.broker.tls and not _is_here(config.broker.host):
        yield "broker.tls: without it, whoever is on the way to the broker may open doors"
    if config.broker.username is None and not _is_here(config.broker.host):
        yield "broker.username: a broker that lets in anybody lets anybody open doors"
    secrets = (config.server.key_file, config.broker.password_file, *(camera.source_file for camera in config.cameras))
    for path in secrets:
        if path is not None and _others_read(path):
            yield f"{path}: other users of this machine may read it; chmod 600"


def _others_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS_READ)
    except OSError:  # it is not needed where the environment has the secret
        return False


def _is_here(host: str) -> bool:
    """Whether it is this very machine, as far as the name tells."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
