"""`GET /v1/sessions/{session_id}/stream`: a WebSocket. This checks who opens it, and gives the connection away."""

import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Never

from flask import Response, g, request
from flask.sansio.blueprints import BlueprintSetupState
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.routing import Rule

from app.api.access import token_access
from app.api.openapi import PROBLEM, PROBLEM_RESPONSES, ViewReturn
from app.api.session_schemas import SessionPath
from app.api.wiring import services
from app.errors import (
    InvalidRequest,
    SessionNotFound,
    StreamsUnavailable,
    Unauthenticated,
    WrongSessionToken,
)
from app.names import as_uuid
from app.streaming.handshake import Opened, check_origin, open_protocol, presented_token
from app.streaming.places import Place
from app.streaming.session import Streamed

_PATH: Final = "/v1/sessions/<session_id>/stream"
_TOKEN_SECURITY: Final[list[dict[str, list[Any]]]] = [{"session": []}]
_HANDSHAKE_HEADERS: Final = ("Host", "Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version")
_PROTOCOL_HEADER: Final = "Sec-Websocket-Protocol"

bp = APIBlueprint(
    "streams",
    __name__,
    abp_tags=[Tag(name="sessions")],
    abp_security=_TOKEN_SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get(
    _PATH,
    responses={
        101: {"description": "The WebSocket is open: frames in, one JSON message out for each (docs/api.md)"},
        426: PROBLEM | {"description": "The request does not ask for a WebSocket"},
    },
)
@token_access()
def stream_frames(path: SessionPath) -> ViewReturn:
    """Open the session's WebSocket: pictures as binary messages in, JSON messages out.

    The token is `Authorization: Bearer TOKEN`, or, from a browser, the second of the subprotocols `facedex.v1` and
    `facedex.token.TOKEN`. A newer connection takes the session over.
    """
    connection = _own_connection()
    g.count_open(str(as_uuid(path.session_id)))  # what is no id counts as one session
    place = services().streams.take_place()
    g.abandon_stream = place.release
    streamed, opened = _open(path.session_id, place)

    def take(taken: socket.socket) -> None:
        services().streams.hand_over(taken, opened, streamed, place)

    return _HandOver(connection, take)


@bp.record_once
def _match_websockets(state: BlueprintSetupState) -> None:
    """Werkzeug matches what asks for a WebSocket with no other rules than such."""
    endpoint = f"{bp.name}.{stream_frames.__name__}"
    state.app.url_map.add(Rule(_PATH, endpoint=endpoint, methods=["GET"], websocket=True))


@bp.teardown_request
def _abandon(_error: BaseException | None) -> None:
    """What was begun for a connection that was not given away after all."""
    if abandon := g.pop("abandon_stream", None):
        abandon()


class _HandOver(Response):
    """Instead of an answer, once the request has been logged and counted: the connection goes, and Gunicorn's thread is free.

    Its socket is detached from the object that Gunicorn has (`app/server/web_worker.py` finds it so); the exception is the one
    that Gunicorn takes for the end of a connection, without a word to the client.
    """

    def __init__(self, connection: socket.socket, take: Callable[[socket.socket], None]) -> None:
        super().__init__(status=101)
        self.direct_passthrough = True
        self._connection = connection
        self._take = take

    def __call__(self, _environ: Any, _start_response: Any) -> Never:
        g.pop("abandon_stream")
        self._take(socket.socket(fileno=self._connection.detach()))
        raise StopIteration


def _open(session_id: str, place: Place) -> tuple[Streamed, Opened]:
    settings, sessions = services().settings, services().sessions
    try:
        token = presented_token(_bearer(), request.headers.get(_PROTOCOL_HEADER))
        opened = open_protocol(
            request.method,
            str(request.environ.get("SERVER_PROTOCOL")),
            {name: value for name, value in request.headers.items() if name in (*_HANDSHAKE_HEADERS, _PROTOCOL_HEADER)},
            max_size=settings.session_max_frame_bytes,
            extra={"X-Request-ID": g.request_id},
        )
        check_origin(request.headers.get("Origin"), request.headers.get("Host", ""), settings.allowed_origins)
        client = g.client.id if "client" in g else None
        stream = sessions.open_stream(
            session_id, token, client, admit=lambda reach, own_id: place.belongs_to(reach.as_setting, own_id)
        )
    except (Unauthenticated, WrongSessionToken, SessionNotFound):
        g.count_failure()
        raise

    def abandon() -> None:
        place.release()
        stream.close()

    g.abandon_stream = abandon
    streamed = Streamed(
        id=stream.id,
        reach=stream.reach,
        remaining_s=stream.remaining_s,
        greeting=stream.greeting(),
        session=stream,
        request_id=g.request_id,
    )
    return streamed, opened


def _own_connection() -> socket.socket:
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        raise StreamsUnavailable("Streams need the web server that scripts/serve starts.")
    if request.content_length or request.headers.get("Transfer-Encoding"):
        raise InvalidRequest("The request for a WebSocket has no body.")
    return connection


def _bearer() -> str | None:
    given = request.authorization
    return given.token if given is not None and given.type == "bearer" else None
