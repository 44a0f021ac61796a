"""One job of the pool, as it crosses the sockets."""

import re
from dataclasses import astuple, dataclass
from typing import Any, Self

from app.deadline import Deadline
from app.embedder.framing import Message
from app.embedder.protocol import EFFORTS, EMBED_MODES
from app.errors import InvalidImage, InvalidRequest, UploadTooLarge
from app.vision.faces import Box, Effort, Embed

_SHA256 = re.compile(r"[0-9a-f]{64}")
NAME_MAX_CHARS = 200
# No request of anybody's takes so long; a worker must not be anyone's for longer.
_DEADLINE_MAX_S = 3600.0
# No format has sides as long as this.
_COORDINATE_MAX = 1 << 24


@dataclass(frozen=True, slots=True)
class Job:
    """A picture that somebody wants analysed, or a small picture of a face of.

    Attributes:
        sha256: of the picture's file, in hexadecimal.
        length: of the file, in bytes.
        deadline: when the answer is of no more use.
        embed: which faces get an embedding.
        model: name of a pack; empty for the default one.
        client: who asks; clients are served in turn.
        request_id: for the log.
        again: whether a worker died of it a moment ago.
        early: the picture follows at once: it is short enough to lie in the socket until a worker reads it.
        background: it takes what others leave (`lanes.py`); always where `effort` is `thorough`.
        effort: how hard faces are looked for.
        thumbnail: the face that a small picture is wanted of; None where the faces themselves are wanted.
    """

    sha256: str
    length: int
    deadline: Deadline
    embed: Embed
    model: str
    client: str
    request_id: str
    again: bool
    early: bool = False
    background: bool = False
    effort: Effort = "usual"
    thumbnail: Box | None = None

    @property
    def way(self) -> str:
        """What is done with the picture: workers may die of the one and not of the other."""
        if self.thumbnail is not None:
            return "thumbnail"
        return self.embed if self.effort == "usual" else f"{self.embed}/{self.effort}"

    def __post_init__(self) -> None:
        if self.effort == "thorough":  # as long as many pictures: with all workers at it, nobody would be recognised
            object.__setattr__(self, "background", True)

    def to_message(self) -> Message:
        """What `from_message` reads.

        `deadline_s` is the machine's monotonic clock, and `left_s` the time that is left now, for a pool elsewhere.
        """
        return {
            "op": "analyze",
            "sha256": self.sha256,
            "bytes": self.length,
            "deadline_s": self.deadline.at_s,
            "left_s": self.deadline.remaining_s(),
            "embed": self.embed,
            "model": self.model,
            "client": self.client,
            "request_id": self.request_id,
            "again": self.again,
            "early": self.early,
            "background": self.background,
            "effort": self.effort,
            "thumbnail": None if self.thumbnail is None else list(astuple(self.thumbnail)),
        }

    @classmethod
    def from_message(cls, message: Message, *, max_bytes: int | None = None, same_clock: bool = True) -> Self:
        """The job of a message.

        Args:
            max_bytes: longest picture; None trusts the sender.
            same_clock: whether it was sent on this machine.

        Raises:
            InvalidRequest, InvalidImage, UploadTooLarge: it is not one that can be done.
        """
        try:
            job = cls(
                sha256=str(message["sha256"]),
                length=int(message["bytes"]),
                deadline=Deadline(float(message["deadline_s"]))
                if same_clock
                else Deadline.after(float(message["left_s"])),
                embed=message["embed"],
                model=str(message["model"]),
                client=str(message["client"])[:NAME_MAX_CHARS],
                request_id=str(message["request_id"])[:NAME_MAX_CHARS],
                again=bool(message["again"]),
                early=bool(message["early"]),
                background=bool(message["background"]),
                effort=message["effort"],
                thumbnail=_box(message["thumbnail"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest("The pool was asked for something that is no job.") from error
        if not is_digest(job.sha256) or job.length < 0 or job.embed not in EMBED_MODES or job.effort not in EFFORTS:
            raise InvalidRequest("The pool was asked for a job that cannot be done.")
        if job.deadline.remaining_s() > _DEADLINE_MAX_S:
            raise InvalidRequest("The pool was asked for a job without a deadline.")
        if not job.length:  # to a worker, which says when to send it, there would be nothing to say
            raise InvalidImage("The file is empty.")
        if max_bytes is not None and job.length > max_bytes:
            raise UploadTooLarge(f"At most {max_bytes} bytes are accepted.")
        return job


def _box(value: Any) -> Box | None:
    """The box of a message. Raises TypeError or ValueError where it is none."""
    if value is None:
        return None
    box = Box(*map(int, value))
    if min(box.w, box.h) < 1 or max(map(abs, astuple(box))) > _COORDINATE_MAX:
        raise ValueError("not a box")
    return box


def is_digest(value: object) -> bool:
    """Whether it is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
