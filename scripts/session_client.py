#!/usr/bin/env python3
"""A client of Facedex's sessions: enrols or verifies a person from photos that it streams as frames. One file, to be copied.

Needs Python 3.11 and the packages httpx and websockets (17 or newer), as Facedex's own `.venv/bin/python` has them.

    session_client.py --url http://127.0.0.1:8000 --key KEY --domain people --person Eileen enrol PHOTO… or FOLDER
    session_client.py --url http://127.0.0.1:8000 --key KEY --domain people --person Eileen verify PHOTO… or FOLDER

Prints each answer as a line of JSON. Exit code 0: enrolled, or verified; 1: not; 2: it could not be found out.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

SUCCESSES: Final = frozenset({"enrolled", "verified"})
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
# 1000 without a result, and 4xxx but for silence, are the end of the session; so is what was our own fault.
_CAN_RESUME: Final = frozenset({1001, 1006, 1011, 1012, 1013, 4002})
_ENDED: Final = 4004
_WITHIN_S: Final = 30.0
# A verification's, where nothing else was asked for.
_MIN_FRAMES: Final = 3
_ATTEMPTS: Final = 8
_PAUSE_FIRST_S: Final = 0.2
_PAUSE_MAX_S: Final = 5.0

Message = dict[str, Any]


class SessionFailed(Exception):
    """There is no result: the session is over, was refused, or cannot be reached any more.

    Attributes:
        code: of the service's problem document, where it was one.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was made.

    Attributes:
        id: for reading it.
        token: lets frames be streamed to it; told once.
        stream: the address of its WebSocket.
        result: asks for its result over HTTP; None where there is none.
    """

    id: str
    token: str = field(repr=False)
    stream: str
    result: Callable[[], Message | None] = field(default=lambda: None, repr=False)


class SessionClient:
    """Makes sessions with an API key.

    Args:
        url: of the service: http://host:port.
        key: an API key that may enrol, or verify, in the domain.
    """

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"x-api-key": key}

    def create(self, domain: str, person: str, kind: str, **limits: float) -> Session:
        """Make a session of kind `enrol` or `verify`; limits are `max_frames`, `expires_in_s` and the kind's own.

        Raises:
            SessionFailed: the service refuses; the message says why.
        """
        body = {"kind": kind, "person": person} | limits
        made = self._ask("POST", f"/v1/domains/{quote(domain, safe='')}/sessions", json=body)
        address = stream_address(self._url, made["id"])
        return Session(made["id"], made["token"], address, lambda: self.read(made["id"])["result"])

    def read(self, session_id: str) -> Message:
        """How far a session is, and its result.

        Raises:
            SessionFailed: it cannot be read.
        """
        return self._ask("GET", f"/v1/sessions/{session_id}")

    def _ask(self, method: str, path: str, **body: Any) -> Message:
        try:
            answer = httpx.request(method, self._url + path, headers=self._headers, timeout=_WITHIN_S, **body)
        except httpx.HTTPError as error:
            raise SessionFailed(f"The service cannot be reached: {error}") from error
        if not answer.is_success:
            raise _problem(answer.content, answer.status_code)
        told: Message = answer.json()
        return told


class Stream:
    """The way of frames to a session: what is lost is connected again, and goes on where the session is.

    Args:
        session: to which.
        told: called with every message of the service's, as it comes.
    """

    def __init__(self, session: Session, told: Callable[[Message], None] = lambda _message: None) -> None:
        self._session = session
        self._told = told
        self._connection: ClientConnection | None = None
        self._sent = 0

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the session can be gone on with until it expires."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def show(self, picture: bytes) -> Message:
        """Send one frame, and wait for what becomes of it. It is sent again where the service had no time for it.

        Returns:
            its answer; holds `result` when the session is decided.

        Raises:
            SessionFailed: there will be no result.
        """
        if not picture:  # no frame for the service, and after some it would hang up
            return {"type": "frame", "dropped": False, "accepted": False, "reasons": ["empty_upload"]}
        for pause_s in _pauses():
            answer = self._tried(lambda: self._answer_to(picture))
            if answer is not None and not answer.get("dropped"):
                return answer
            time.sleep(pause_s)
        raise SessionFailed("The service has no time for the frames.")

    def finish(self) -> Message:
        """Say that there are no more frames: the message with the result.

        Raises:
            SessionFailed: there is none.
        """
        for pause_s in _pauses():
            answer = self._tried(self._finished)
            if answer is not None:
                return answer
            time.sleep(pause_s)
        raise SessionFailed("The service does not say what has become of the session.")

    def _tried(self, ask: Callable[[], Message | None]) -> Message | None:
        """The answer; None where there was none, and asking again may help."""
        try:
            return ask()
        except ConnectionClosed as closed:
            self.close()
            code = closed.rcvd.code if closed.rcvd else 1006
            if code not in _CAN_RESUME:
                # Decided, by a frame whose answer was lost or by another connection: then there is a result.
                if code == _ENDED and (result := self._session.result()) is not None:
                    return {"type": "result", "result": result}
                raise SessionFailed(
                    f"The stream was closed: {code} {closed.rcvd and closed.rcvd.reason}".strip()
                ) from closed
        except InvalidStatus as refused:
            if refused.response.status_code not in (429, 503, 504):
                problem = _problem(refused.response.body or b"", refused.response.status_code)
                # The answer that told so was lost with the last connection.
                if problem.code == "session_ended" and (result := self._session.result()) is not None:
                    return {"type": "result", "result": result}
                raise problem from refused
        except (OSError, InvalidHandshake):  # a timeout included
            self.close()
        return None

    def _answer_to(self, picture: bytes) -> Message:
        connection = self._connected()
        self._sent += 1
        connection.send(picture)
        answer = self._heard(
            lambda message: (
                message["type"] == "error" or (message["type"] == "frame" and message["frame"] == self._sent)
            )
        )
        if answer["type"] == "error":  # the frame will not be answered; mostly the stream is about to be closed
            return {"type": "frame", "dropped": True, "accepted": False, "reasons": [answer["code"]]}
        return answer

    def _finished(self) -> Message | None:
        self._connected().send(json.dumps({"type": "finish"}))
        answer = self._heard(lambda message: message["type"] in ("result", "error"))
        return None if answer["type"] == "error" else answer

    def _heard(self, is_it: Callable[[Message], bool]) -> Message:
        while True:
            message = self._receive()
            if is_it(message) or message.get("result") is not None:
                return message

    def _receive(self) -> Message:
        assert self._connection is not None
        message: Message = json.loads(self._connection.recv(timeout=_WITHIN_S))
        self._told(message)
        return message

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            self._connection = connect(
                self._session.stream,
                additional_headers={"Authorization": f"Bearer {self._session.token}"},
                compression=None,  # pictures are compressed already
                open_timeout=_WITHIN_S,
                legacy=True,  # the connection itself, rather than one to be used in a `with`
            )
            self._sent = 0  # frames are counted anew on each connection
            self._receive()  # `ready`
        return self._connection


def stream_address(url: str, session_id: str) -> str:
    """The WebSocket of a session of the service at `url`."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/sessions/{session_id}/stream"


def run(
    session: Session, pictures: Iterable[bytes], told: Callable[[Message], None] = lambda _message: None
) -> Message:
    """Show pictures until the session is decided, or there are no more.

    Returns:
        the session's result.

    Raises:
        SessionFailed: there is none.
    """
    with Stream(session, told) as stream:
        for picture in pictures:
            if (result := stream.show(picture).get("result")) is not None:
                return dict(result)
        return dict(stream.finish()["result"])


def _pauses() -> Iterator[float]:
    pause_s = _PAUSE_FIRST_S
    for _ in range(_ATTEMPTS):
        yield pause_s
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


def _problem(body: bytes | bytearray, status: int) -> SessionFailed:
    try:
        told = json.loads(body)
        return SessionFailed(f"{status}: {told['detail']}", told["code"])
    except (ValueError, KeyError, TypeError):
        return SessionFailed(f"The service answers {status}.")


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        in_it = path.iterdir() if path.is_dir() else ()
        found += sorted(file for file in in_it if file.suffix.lower() in _PICTURES) if path.is_dir() else [path]
    return found


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default=os.environ.get("FACEDEX_KEY"), help="an API key; or set FACEDEX_KEY")
    parser.add_argument("--domain", required=True)
    parser.add_argument("--person", required=True, help="label, external id or id")
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("kind", choices=("enrol", "verify"))
    parser.add_argument("photos", nargs="+", type=Path, help="pictures, or folders of them")
    arguments = parser.parse_args()
    if not arguments.key:
        parser.error("--key or FACEDEX_KEY is needed")
    return arguments


def main() -> int:
    """The command line."""
    given = _parsed()
    limits = {"max_frames": given.max_frames} if given.max_frames else {}
    try:
        files = _files(given.photos)
        if given.kind == "verify" and len(files) < _MIN_FRAMES:
            # Nobody is verified with fewer than the session asks for.
            limits["min_frames"] = max(1, min(len(files), given.max_frames or len(files)))
        session = SessionClient(given.url, given.key).create(given.domain, given.person, given.kind, **limits)
        result = run(
            session,
            (file.read_bytes() for file in files),
            lambda message: print(json.dumps(message, ensure_ascii=False)),
        )
    except (SessionFailed, OSError) as error:
        print(f"session_client: {error}", file=sys.stderr)
        return 2
    return 0 if result.get("outcome") in SUCCESSES else 1


if __name__ == "__main__":
    sys.exit(main())
