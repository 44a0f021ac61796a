"""One interface to a folder of pictures, a video file and a camera's stream."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from app.edge.cameras.frame import Picture
from app.edge.cameras.lag import Lag
from app.edge.errors import EdgeError

_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FILE_MAX_BYTES: Final = 32 * 2**20
_OPEN_TIMEOUT_MS: Final = 5_000
_READ_TIMEOUT_MS: Final = 5_000
_FFMPEG_QUIET: Final = "-8"


class CameraAway(EdgeError):
    """The camera, the file or the folder cannot be read now; opening it anew may help."""


class Pictures(Protocol):
    """An opened source of pictures. Belongs to one thread.

    Attributes:
        live: it goes on whether anybody looks or not, and has to be kept up with; a recording waits.
        lag_s: how long the picture that was grabbed lies behind, in seconds.
    """

    live: bool
    lag_s: float

    def grab(self) -> bool:
        """Go on to the next picture: the moment of its capture is the one at which this returns.

        Returns:
            whether there is one now.

        Raises:
            CameraAway: it cannot be had.
        """
        ...

    def picture(self) -> Picture:
        """The picture that was grabbed.

        Raises:
            CameraAway: it cannot be had.
        """
        ...

    def close(self) -> None:
        """Give it back."""
        ...


def open_pictures(source: str, *, loop: bool) -> Pictures:
    """Open what `cameras.source` names.

    Raises:
        CameraAway: it cannot be opened now.
    """
    kind, _, rest = source.partition(":")
    if kind == "folder":
        return FolderPictures(Path(rest), loop=loop)
    if kind == "video":
        return VideoPictures(rest, live=False, loop=loop)
    return VideoPictures(source, live=True, loop=False)


class FolderPictures:
    """The pictures of a folder in the order of their names; files that are added later follow, where they sort later.

    A file has to be complete when it appears: whoever writes it moves it there.
    """

    live = False
    lag_s = 0.0

    def __init__(self, folder: Path, *, loop: bool) -> None:
        self._folder = folder
        self._loop = loop
        self._ahead: Iterator[Path] = iter(())
        self._last: Path | None = None
        self._list()

    def grab(self) -> bool:
        """As `Pictures.grab`; no, where all have been shown."""
        found = next(self._ahead, None)
        if found is None:
            self._list()
            found = next(self._ahead, None)
        if found is None and self._loop and self._last is not None:
            self._last = None
            self._list()
            found = next(self._ahead, None)
        if found is not None:
            self._last = found
        return found is not None

    def picture(self) -> Picture:
        """The file as it is."""
        assert self._last is not None
        try:
            with self._last.open("rb") as stream:
                data = stream.read(_FILE_MAX_BYTES + 1)
        except OSError as error:
            raise CameraAway(f"{self._last.name} cannot be read: {error.strerror}.") from None
        if len(data) > _FILE_MAX_BYTES:
            raise CameraAway(f"{self._last.name} is larger than {_FILE_MAX_BYTES} bytes.")
        return data

    def close(self) -> None:
        """There is nothing open."""

    def _list(self) -> None:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        except OSError as error:
            raise CameraAway(f"The folder {self._folder} cannot be read: {error.strerror}.") from None
        shown = self._last.name if self._last is not None else ""
        self._ahead = iter([self._folder / name for name in names if name > shown])


class VideoPictures:
    """A video file, or a stream over RTSP, by OpenCV's FFmpeg."""

    def __init__(self, address: str, *, live: bool, loop: bool) -> None:
        # What FFmpeg and OpenCV have to say of a stream goes to standard error past the log, again and again.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

        self.live = live
        self.lag_s = 0.0
        self._lag = Lag()
        self._loop = loop
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
        self._rewind, self._position = cv2.CAP_PROP_POS_FRAMES, cv2.CAP_PROP_POS_MSEC
        # An address may hold a password, so that nothing here says which one it was.
        self._capture: Any = cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraAway("The stream does not open." if live else "The video cannot be opened.")

    def grab(self) -> bool:
        """As `Pictures.grab`; no, at the end of a file."""
        if self._capture.grab():
            if self.live:
                self.lag_s = self._lag.of(self._capture.get(self._position) / 1000, time.monotonic())
            return True
        if self.live:
            raise CameraAway("The stream broke off.")
        return self._loop and bool(self._capture.set(self._rewind, 0)) and bool(self._capture.grab())

    def picture(self) -> Picture:
        """uint8, (H, W, 3), BGR."""
        done, image_bgr = self._capture.retrieve()
        if not done:
            raise CameraAway("A picture cannot be decoded.")
        return np.asarray(image_bgr, np.uint8)

    def close(self) -> None:
        """The stream."""
        self._capture.release()
