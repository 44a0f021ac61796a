"""Asks the pool: sends one picture, gets its faces, within a deadline. Loads no model runtime."""

import hashlib
import json
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from app.deadline import Deadline
from app.embedder.framing import ConnectionEnded, FramingError, Message, encode, receive
from app.embedder.job import NAME_MAX_CHARS, Job
from app.embedder.protocol import load_analysis
from app.embedder.quarantine import QuarantinedPicture
from app.embedder.status import PoolStatus
from app.errors import (
    EmbedderError,
    EmbedderUnavailable,
    FacedexError,
    ImageQuarantined,
    ImageTooLarge,
    InvalidEmbedding,
    InvalidImage,
    InvalidRequest,
    ModelUnavailable,
    PoolBusy,
    UnknownModel,
    UnsupportedImage,
    UploadTooLarge,
    WorkerCrashed,
    WorkerTimeout,
)
from app.vision.faces import Analysis, Box, Effort, Embed

_ERRORS_BY_CODE: Final[dict[str, type[FacedexError]]] = {
    error.code: error
    for error in (
        EmbedderError,
        ImageQuarantined,
        ImageTooLarge,
        InvalidEmbedding,
        InvalidImage,
        InvalidRequest,
        ModelUnavailable,
        PoolBusy,
        UnknownModel,
        UnsupportedImage,
        UploadTooLarge,
        WorkerTimeout,
    )
}
# Shorter pictures are sent along with their job: the buffer of a Unix socket takes them, and one turn to and fro is saved. Over
# a network, an answer to a job that is refused could be lost together with the picture that nobody read.
_EARLY_MAX_BYTES: Final = 128 * 1024
# For questions that the pool answers without a worker.
_QUESTION_S: Final = 2.0
# So long after the deadline, who waits in the background still listens.
_GRACE_S: Final = 0.5


class EmbedderClient:
    """Talks to the pool at `unix:/path` or `tcp://host:port`. Holds no connection, no thread: safe to share and to fork."""

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
        background: bool = False,
        effort: Effort = "usual",
    ) -> Analysis:
        """Detect and embed the faces of one picture.

        Args:
            image: the file's bytes: JPEG, PNG, WebP or BMP.
            deadline: when the answer is of no more use.
            embed: which faces get an embedding.
            request_id: for the pool's log.
            client: on whose behalf; the pool serves clients in turn.
            model: name of a pack; None is the pool's default.
            background: take what others leave, and wait in a short queue of its own until the deadline.
            effort: `thorough` looks in ever more tolerant ways until a face is found, which takes as many times as long.

        Returns:
            all faces, largest first.

        Raises:
            ImageError: the picture cannot be read, or workers have died of it.
            InvalidEmbedding: the model makes nothing of one of its faces.
            PoolBusy: the queue is full, or the picture has waited in it for EMBEDDER_QUEUE_S or, in the background, until the
                deadline.
            WorkerTimeout: no answer before the deadline.
            WorkerCrashed: two workers were lost on it.
            UnknownModel: no model of that name is loaded; the message names those that are.
            ModelUnavailable: the model cannot be loaded.
            EmbedderUnavailable: nothing listens at the address.
        """
        job = self._job(image, deadline, client, request_id, embed=embed, model=(model or "")[:NAME_MAX_CHARS])
        return load_analysis(self._run_patiently(replace(job, background=background, effort=effort), image))

    def thumbnail(self, image: bytes, box: Box, *, deadline: Deadline, request_id: str = "", client: str = "") -> bytes:
        """Make a small picture of a face, in the background.

        Args:
            image, deadline, request_id, client: as of `analyze`.
            box: the face, in pixels of the picture as a viewer shows it.

        Returns:
            a WebP file, as `app.vision.thumbnails` makes it.

        Raises: as `analyze`.
        """
        job = self._job(image, deadline, client, request_id, embed="none", model="")
        return self._run_patiently(replace(job, background=True, thumbnail=box), image)

    def status(self, *, timeout_s: float = _QUESTION_S) -> PoolStatus:
        """What each worker is doing.

        Raises:
            EmbedderUnavailable: nothing listens at the address.
            WorkerTimeout: the pool does not answer.
        """
        return PoolStatus.from_json(json.loads(self._ask({"op": "status"}, timeout_s=timeout_s)[1]))

    def metrics(self) -> bytes:
        """The pool's counters in Prometheus' text format.

        Raises:
            EmbedderError: as `status`.
        """
        return self._ask({"op": "metrics"})[1]

    def quarantined(self) -> list[QuarantinedPicture]:
        """The pictures that no worker gets any more, the newest last.

        Raises:
            EmbedderError: as `status`.
        """
        return [QuarantinedPicture(**entry) for entry in json.loads(self._ask({"op": "quarantine"})[1])]

    def clear_quarantine(self, sha256: str | None = None) -> int:
        """Let workers have a picture again, or all of them.

        Returns:
            how many were in quarantine.

        Raises:
            EmbedderError: as `status`.
        """
        return int(self._ask({"op": "clear_quarantine", "sha256": sha256})[0]["cleared"])

    def _job(self, image: bytes, deadline: Deadline, client: str, request_id: str, *, embed: Embed, model: str) -> Job:
        return Job(
            sha256=hashlib.sha256(image).hexdigest(),
            length=len(image),
            deadline=deadline,
            embed=embed,
            model=model,
            client=client[:NAME_MAX_CHARS],
            request_id=request_id[:NAME_MAX_CHARS],
            again=False,
            early=len(image) <= _EARLY_MAX_BYTES and self.address.startswith("unix:"),
        )

    def _run_patiently(self, job: Job, image: bytes) -> bytes:
        """The answer; asked for once more where the first worker died of something."""
        try:
            return self._run(job, image)
        except WorkerCrashed:
            if job.deadline.expired:
                raise
        try:
            return self._run(replace(job, again=True), image)
        except WorkerCrashed:
            self._ask({"op": "examine", "sha256": job.sha256})  # says so where the picture is to blame
            raise

    def _run(self, job: Job, image: bytes) -> bytes:
        if job.deadline.expired:
            raise WorkerTimeout("The deadline had passed before a worker was asked.")
        # In the background, the pool itself says at the deadline that no worker had time.
        grace_s = _GRACE_S if job.background else 0.001
        with self._connected(max(job.deadline.remaining_s(), 0.0) + grace_s) as connection:
            try:
                if job.early:
                    return self._exchange(connection, encode(job.to_message()) + image)[1]
                self._exchange(connection, encode(job.to_message()))
                connection.settimeout(max(job.deadline.remaining_s(), 0.0) + grace_s)
                return self._exchange(connection, image)[1]
            except TimeoutError:
                raise WorkerTimeout("No worker finished before the deadline.") from None
            except OSError as error:  # of the network, to a pool elsewhere
                raise EmbedderUnavailable("The connection to the worker pool was lost.") from error

    def _ask(self, question: Message, *, timeout_s: float = _QUESTION_S) -> tuple[Message, bytes]:
        with self._connected(timeout_s) as connection:
            try:
                return self._exchange(connection, encode(question))
            except TimeoutError:
                raise WorkerTimeout("The worker pool does not answer.") from None
            except WorkerCrashed as error:
                raise EmbedderUnavailable("The worker pool has just ended.") from error

    @staticmethod
    def _exchange(connection: socket.socket, data: bytes) -> tuple[Message, bytes]:
        """Say something, and hear what is said to it.

        Raises:
            FacedexError: the error that the answer is.
            WorkerCrashed: there is none.
        """
        try:
            connection.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            pass  # it may have been answered before it was read
        try:
            message, body = receive(connection)
        except (ConnectionEnded, FramingError) as error:
            raise WorkerCrashed("The worker died while it held the picture.") from error
        if "error" in message:
            raise _ERRORS_BY_CODE.get(message["error"], EmbedderError)(str(message["message"]))
        return message, body

    @contextmanager
    def _connected(self, timeout_s: float) -> Generator[socket.socket]:
        try:
            connection = self._connect(timeout_s)
        except BlockingIOError:
            raise PoolBusy("The worker pool takes no more connections; try again shortly.") from None
        except TimeoutError:
            raise WorkerTimeout("The worker pool did not accept the request in time.") from None
        except OSError as error:
            raise EmbedderUnavailable("The worker pool is not running.") from error
        with connection:
            yield connection

    def _connect(self, timeout_s: float) -> socket.socket:
        if self.address.startswith("unix:"):
            return _connect_unix(self.address.removeprefix("unix:"), timeout_s)
        parts = urlsplit(self.address)
        connection = socket.create_connection((parts.hostname, parts.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _connect_unix(path: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    # With a timeout the socket does not block: a pool that accepts nothing is noticed at once (EAGAIN).
    connection.settimeout(timeout_s)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
