"""The web side of the pool: sends one picture, gets its faces, within a deadline.

The pool's queue is the kernel's: connections that no worker has accepted yet wait in order of arrival in the listening
socket, which is shared by all workers and bounded by `EMBEDDER_QUEUE`. A connection beyond that bound is refused at once, and
so becomes `PoolBusy`. A worker that dies drops the one connection it held; the others stay queued and are never affected.
"""

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

from app.deadline import Deadline
from app.embedder.protocol import (
    DEADLINE_HEADER,
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    load_analysis,
)
from app.errors import (
    EmbedderError,
    EmbedderUnavailable,
    FacedexError,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    ModelUnavailable,
    PoolBusy,
    UnknownModel,
    UnsupportedImage,
    WorkerCrashed,
    WorkerTimeout,
)
from app.vision.faces import Analysis, Embed

_ERRORS_BY_CODE: dict[str, type[FacedexError]] = {
    error.code: error
    for error in (
        ImageTooLarge,
        InvalidImage,
        UnsupportedImage,
        InvalidRequest,
        ModelUnavailable,
        WorkerTimeout,
        EmbedderError,
    )
}

# A picture gets this many workers at the most: the one that may die of it, and one more.
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What one worker says of itself.

    Attributes:
        model: name of the loaded pack, None where none is loaded.
        contract: id of its embedding contract, None likewise.
        problem: why no model is loaded, None where one is.
        pid: the worker's process id.
    """

    model: str | None
    contract: str | None
    problem: str | None
    pid: int


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("embedder", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a timeout set the socket does not block, so a full queue is refused at once (EAGAIN) instead of waited for.
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class EmbedderClient:
    """Talks to the pool at `unix:/path` or `http://host:port`. Holds no connection, no thread: safe to share and to fork."""

    def __init__(self, address: str) -> None:
        self.address = address

    def analyze(
        self,
        image: bytes,
        *,
        deadline: Deadline,
        embed: Embed = "all",
        request_id: str = "",
        client: str = "",
        model: str | None = None,
    ) -> Analysis:
        """Detect and embed the faces of one picture.

        Args:
            image: the file's bytes: JPEG, PNG, WebP or BMP.
            deadline: when the answer is of no more use.
            embed: which faces get an embedding.
            request_id: for the pool's log.
            client: who asks: the pool serves its clients in turn.
            model: name of the pack that is wanted; None takes the pool's own.

        Returns:
            all faces, largest first.

        Raises:
            UnknownModel: the pool has no such pack loaded; the message names those that it has.
            ImageError: the picture cannot be read.
            PoolBusy: the queue is full.
            WorkerTimeout: no answer before the deadline.
            WorkerCrashed: two workers died of it.
            ModelUnavailable: the pool has no model loaded.
            EmbedderUnavailable: nothing listens at the address.
        """
        if model is not None and model != (loaded := self.status().model):
            raise UnknownModel(f"No model {model!r} is loaded; loaded: {loaded or 'none'}.")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return load_analysis(self._call("POST", f"/analyze?embed={embed}", image, deadline, request_id))
            except WorkerCrashed:
                if attempt == _ATTEMPTS or deadline.expired:
                    raise
        raise AssertionError("unreachable")

    def status(self, *, timeout_s: float = 2.0) -> PoolStatus:
        """Ask whichever worker is free about itself.

        Raises:
            EmbedderError: as `analyze`; `PoolBusy` and `WorkerTimeout` mean that the pool works, but has no time.
        """
        data = json.loads(self._call("GET", "/status", b"", Deadline.after(timeout_s), ""))
        return PoolStatus(model=data["model"], contract=data["contract"], problem=data["problem"], pid=data["pid"])

    def _call(self, method: str, path: str, body: bytes, deadline: Deadline, request_id: str) -> bytes:
        remaining_s = deadline.remaining_s()
        if remaining_s <= 0:
            raise WorkerTimeout("The deadline had passed before a worker was asked.")
        connection = self._connection(remaining_s)
        headers = {
            REQUEST_ID_HEADER: request_id,
            TIMEOUT_HEADER: f"{remaining_s:.3f}",
            "Content-Type": "application/octet-stream",
        }
        if self.address.startswith("unix:"):
            headers[DEADLINE_HEADER] = f"{deadline.at_s:.6f}"
        try:
            self._connect(connection)
            return self._exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"), timeout_s)
        return http.client.HTTPConnection(self.address.removeprefix("http://").rstrip("/"), timeout=timeout_s)

    @staticmethod
    def _connect(connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except BlockingIOError:
            raise PoolBusy("All workers are busy and the queue is full; try again shortly.") from None
        except TimeoutError:
            raise WorkerTimeout("The worker pool did not accept the request in time.") from None
        except OSError as error:
            raise EmbedderUnavailable("The worker pool is not running.") from error

    @staticmethod
    def _exchange(
        connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> bytes:
        try:
            connection.request(method, path, body, headers)
        except TimeoutError:
            raise WorkerTimeout("No worker took the picture before the deadline.") from None
        except (BrokenPipeError, ConnectionResetError):
            # The worker may have refused before it had read everything; its answer, if there is one, says why.
            pass
        try:
            response = connection.getresponse()
            payload = response.read()
        except TimeoutError:
            raise WorkerTimeout("No worker finished before the deadline.") from None
        except (http.client.HTTPException, OSError) as error:
            raise WorkerCrashed("The worker died while it held the picture.") from error
        if response.status == 200:
            return payload
        raise _error_of(payload)


def _error_of(payload: bytes) -> FacedexError:
    try:
        problem: dict[str, Any] = json.loads(payload)
        return _ERRORS_BY_CODE.get(problem["code"], EmbedderError)(problem["message"])
    except (ValueError, KeyError, TypeError):
        # Gunicorn's own error page: the worker was told to stop in the middle of the job.
        return WorkerCrashed("The worker gave up the picture.")
