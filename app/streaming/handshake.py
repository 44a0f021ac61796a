"""The opening handshake (RFC 6455, section 4.2) of a request that Flask has parsed."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, NegotiationError
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from app.errors import InvalidRequest, OriginNotAllowed, Unauthenticated, UpgradeRequired

SUBPROTOCOL: Final = Subprotocol("facedex.v1")
TOKEN_PREFIX: Final = "facedex.token."  # noqa: S105
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# The library tells headers and messages at DEBUG: they hold tokens and pictures.
WIRE_LOGGER: Final = logging.getLogger("facedex.streaming.wire")
WIRE_LOGGER.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Opened:
    """A handshake that succeeded.

    Attributes:
        protocol: of this connection, open.
        answer: what is to be sent first: 101.
    """

    protocol: ServerProtocol
    answer: bytes


def presented_token(bearer: str | None, subprotocols: str | None) -> str:
    """The session's token: of `Authorization: Bearer`, or, of a browser, among the subprotocols that it offers.

    Raises:
        Unauthenticated: there is none.
        InvalidRequest: there are two.
    """
    found = {bearer} if bearer else set()
    found |= {name.removeprefix(TOKEN_PREFIX) for name in _offered(subprotocols) if name.startswith(TOKEN_PREFIX)} - {
        ""
    }
    if len(found) > 1:
        raise InvalidRequest("The request has two tokens.")
    if not found:
        raise Unauthenticated(
            f"Send the session's token as 'Authorization: Bearer …', or offer the subprotocols '{SUBPROTOCOL}' and "
            f"'{TOKEN_PREFIX}…'."
        )
    return found.pop()


def check_origin(origin: str | None, host: str, allowed: Iterable[str]) -> None:
    """Let programs through, which send no origin, and pages of this host or of those that are allowed.

    Raises:
        OriginNotAllowed: another page opens the stream.
    """
    if origin is not None and origin.lower() not in allowed and not is_same_origin(origin, host):
        raise OriginNotAllowed("Pages of this origin may not open streams here (ALLOWED_ORIGINS).")


def is_same_origin(origin: str | None, host: str) -> bool:
    """Whether a request comes from a page of the host that it is sent to, or tells nothing of where it comes from."""
    if origin is None:
        return True
    try:
        parts = urlsplit(origin.lower())
        asked = urlsplit(f"//{host.lower()}")
        port = _DEFAULT_PORTS.get(parts.scheme)
        # Not the scheme: a proxy before the service may have ended TLS.
        return bool(parts.hostname) and (parts.hostname, parts.port or port) == (asked.hostname, asked.port or port)
    except ValueError:  # a port that is none, a bracket without its other
        return False


def open_protocol(
    method: str, http_version: str, headers: Mapping[str, str], *, max_size: int, extra: Mapping[str, str]
) -> Opened:
    """Check the handshake's own headers and make its answer.

    Args:
        max_size: of a message, in bytes.
        extra: further headers of the answer.

    Raises:
        UpgradeRequired: the request does not ask for a WebSocket.
        InvalidRequest: it does, and does it wrongly. What it has sent is not repeated: its token is among that.
    """
    # Pictures are compressed already: no permessage-deflate, which would be another way to fill the memory.
    protocol = ServerProtocol(
        extensions=None, select_subprotocol=_select_subprotocol, max_size=max_size, logger=WIRE_LOGGER
    )
    if method != "GET" or "Upgrade" not in headers:
        raise UpgradeRequired("This is a WebSocket: connect with a WebSocket client.")
    # The library reads requests itself, and goes on to read messages only after one.
    protocol.receive_data(Request("/", Headers(headers.items()), protocol=http_version).serialize())
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        raise InvalidRequest(_why(protocol.handshake_exc))
    answer = protocol.accept(events[0])
    if answer.status_code == HTTPStatus.UPGRADE_REQUIRED:
        raise UpgradeRequired("This is a WebSocket: connect with a WebSocket client.")
    if answer.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        raise InvalidRequest(_why(protocol.handshake_exc))
    for name, value in extra.items():
        answer.headers[name] = value
    protocol.send_response(answer)
    return Opened(protocol, b"".join(protocol.data_to_send()))


def _select_subprotocol(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    if offered:
        raise NegotiationError
    return None


def _why(error: Exception | None) -> str:
    if isinstance(error, NegotiationError):
        return f"Among the subprotocols that are offered, '{SUBPROTOCOL}' is missing."
    return "The headers of the WebSocket handshake are wrong."


def _offered(subprotocols: str | None) -> list[str]:
    if not subprotocols:
        return []
    try:
        return list(parse_subprotocol(subprotocols))
    except InvalidHandshake:
        raise InvalidRequest("Sec-WebSocket-Protocol is not a list of names.") from None
