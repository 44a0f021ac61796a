"""Where the broker is, and what its connections are made of."""

import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is, and how it is talked to.

    Attributes:
        client_id: this controller's, and nobody else's: the broker throws out who had it before.
        ca_file: of the authorities whose certificates count; the system's where None.
        cert_file, key_file: this controller's own certificate.
        keepalive_s: a connection that is silent for longer is given up.
        answer_s: a broker that takes longer to answer hangs, and gets no command.
        first_delay_s, longest_delay_s: between attempts to connect; doubled each time, and spread at random.
    """

    host: str
    client_id: str
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = 15
    answer_s: float = 0.5
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0


def lose_at_close(opened: Any, *, lose: bool) -> None:
    """Whether closing the socket drops what was not delivered yet; else the kernel goes on trying for minutes."""
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(lose), 0))


def prepare(opened: Any) -> None:
    """Nothing small waits for something bigger, and nothing late is delivered after the end."""
    lose_at_close(opened, lose=True)
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def what_failed(error: Exception) -> str:
    """What kind of error it was; its text may hold anything."""
    number = getattr(error, "errno", None)
    return type(error).__name__ if number is None else f"{type(error).__name__} {number}"


def tls_context(settings: BrokerSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")  # never asks a terminal
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file)
        raise ConfigError(f"The certificates for the MQTT broker cannot be used ({files}): {error}") from None
    return context
