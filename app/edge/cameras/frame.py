"""A picture of a camera with what was known at the instant when it was taken, and the place where it waits."""

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from app.edge.errors import RecognizeError
from app.edge.triggers import TriggerContext

Picture = bytes | npt.NDArray[np.uint8]
"""A picture file's bytes, or uint8, (H, W, 3), BGR."""

T = TypeVar("T")
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a camera.

    Attributes:
        picture: as the camera gave it.
        captured_at: Unix seconds.
        context: the locks that were touched, and whether there was movement, at that instant and no other.
    """

    camera: str
    picture: Picture
    captured_at: float
    context: TriggerContext

    def encoded(self) -> bytes:
        """A picture file's bytes: what a recogniser takes.

        Raises:
            RecognizeError: the pixels cannot be made into a file.
        """
        if isinstance(self.picture, bytes):
            return self.picture
        import cv2

        try:
            done, data = cv2.imencode(".jpg", self.picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        except cv2.error:
            done, data = False, np.empty(0, np.uint8)
        if not done:
            raise RecognizeError("The camera gave a picture that cannot be encoded.")
        return bytes(data)


class Slot(Generic[T]):
    """Holds one thing, the newest: who puts never waits, and what nobody has taken by then is dropped."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        """Leave it; what it takes the place of, and nobody will see, comes back."""
        with self._changed:
            dropped, self._held = self._held, item
            self._changed.notify()
            return dropped

    def take(self, *, wait: bool = True) -> T | None:
        """The newest; None where there is none, or once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held is not None or not wait)
            taken, self._held = self._held, None
            return None if self._closed else taken

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
