"""Recognition by the server's `/recognize`."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from app.edge.cameras.frame import Frame
from app.edge.circuit import Circuit
from app.edge.clock import Clock
from app.edge.errors import RecognizeError, RecognizeRefused, RecognizeUnavailable
from app.edge.recognition import NOT_A_MEMBER, TOO_FAR, Recognized, best_of_each
from app.edge.snapshot import Match, Snapshot

# An answer names at most some dozens of faces.
_ANSWER_MAX_BYTES: Final = 4 * 2**20
_BACKOFF_S: Final = 0.1
# Statuses by which the server says that it cannot now; others from 400 on will not become better by asking again.
_NOT_NOW: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Person(_Part):
    id: str | None
    label: str


class _Candidate(_Part):
    person: _Person
    distance: float = Field(ge=-0.001, le=2.001)


class _Face(_Part):
    decision: Literal["match", "ambiguous", "unknown"]
    candidates: tuple[_Candidate, ...]


class _Answer(_Part):
    faces: tuple[_Face, ...]


class ServerRecognizer:
    """Sends a picture to `/recognize`; whom it names counts only where they are a current member here.

    Args:
        client: with the server's address as its base.
        snapshot: the gallery's, as of now.
        timeout_s: for one picture, all attempts together.
        attempts: at most; more than one only for what may become better by asking again.
        max_distance: matches that are further away do not count; None: the server decides alone.
    """

    def __init__(
        self,
        client: httpx.Client,
        api_key: SecretStr,
        domain: str,
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        circuit: Circuit,
        *,
        timeout_s: float,
        attempts: int,
        max_distance: float | None = None,
    ) -> None:
        self._client = client
        self._api_key = api_key
        self._domain = domain
        self._snapshot = snapshot
        self._clock = clock
        self._circuit = circuit
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._max_distance = max_distance

    def recognize(self, frame: Frame) -> Recognized:
        """As `Recognizer.recognize`.

        Raises:
            RecognizeUnavailable: it does not answer in time, or is left alone for the moment.
            RecognizeRefused, RecognizeError: as their names say.
        """
        if not self._circuit.may_ask():
            raise RecognizeUnavailable("The server failed before, and is left alone for a while.")
        started_s = time.perf_counter()
        try:
            answer = self._ask(frame.encoded())
        except RecognizeUnavailable:
            self._circuit.failed()
            raise
        except BaseException:
            self._circuit.succeeded()  # whatever was wrong, it was not that nobody answered
            raise
        self._circuit.succeeded()
        asked_s = time.perf_counter() - started_s
        matches, nobody = self._members(answer)
        return Recognized(matches, len(answer.faces), "server", nobody, {"recognize": asked_s})

    def close(self) -> None:
        """Its connections."""
        self._client.close()

    def _ask(self, picture: bytes) -> _Answer:
        ends_s = self._clock.monotonic() + self._timeout_s
        for attempt in range(1, self._attempts + 1):
            try:
                return self._attempt(picture, ends_s)
            except RecognizeUnavailable:
                # Apart from each other: all controllers of a house lose the server in the same moment.
                pause_s = _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 -- no secret
                if attempt == self._attempts or self._clock.monotonic() + pause_s >= ends_s:
                    raise
                self._clock.sleep(pause_s)
        raise AssertionError

    def _attempt(self, picture: bytes, ends_s: float) -> _Answer:
        remaining_s = max(0.001, ends_s - self._clock.monotonic())
        try:
            with self._client.stream(
                "POST",
                "recognize",
                params={"domain": self._domain, "top_k": 2},
                content=picture,
                headers={"x-api-key": self._api_key.get_secret_value(), "content-type": "application/octet-stream"},
                timeout=remaining_s,
            ) as response:
                _check(response.status_code)
                return _parsed(self._read(response, ends_s))
        except httpx.HTTPError as error:
            # Their texts may hold addresses; the class says what happened.
            raise RecognizeUnavailable(f"The server does not answer ({type(error).__name__}).") from None

    def _read(self, response: httpx.Response, ends_s: float) -> bytes:
        """The whole answer; each of httpx's timeouts is for one read only."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _ANSWER_MAX_BYTES:
                raise RecognizeError("The server's answer is longer than an answer is.")
            if self._clock.monotonic() > ends_s:
                raise RecognizeUnavailable("The server did not answer in time.")
        return bytes(body)

    def _members(self, answer: _Answer) -> tuple[tuple[Match, ...], Counter[str]]:
        """The faces that are a current member's, and why the others are not."""
        snapshot, now = self._snapshot(), self._clock.now()
        matches: list[Match] = []
        nobody: Counter[str] = Counter()
        for face in answer.faces:
            if face.decision != "match" or not face.candidates:
                nobody[face.decision if face.decision != "match" else "unknown"] += 1
                continue
            person, distance = face.candidates[0].person, face.candidates[0].distance
            member = snapshot.member(person.id) if person.id is not None else None
            member = member or snapshot.member(person.label)
            if self._max_distance is not None and distance > self._max_distance:
                nobody[TOO_FAR] += 1
            elif member is None or not member.is_valid(now):
                nobody[NOT_A_MEMBER] += 1
            else:
                matches.append(Match(member, 1.0 - distance))
        return best_of_each(matches), nobody


def _check(status: int) -> None:
    if status == 200:
        return
    if status in _NOT_NOW or status > 504:
        raise RecognizeUnavailable(f"The server answered {status}.")
    if status in (401, 403):
        raise RecognizeRefused(f"The server does not accept this controller's key ({status}).")
    if status == 404:
        raise RecognizeRefused("The server knows no such domain (404).")
    raise RecognizeRefused(f"The server refused the picture ({status}).")


def _parsed(body: bytes) -> _Answer:
    try:
        return _Answer.model_validate_json(body)
    except ValidationError:
        raise RecognizeError("The server's answer is none of /recognize.") from None
