"""A real RTSP server for tests: GStreamer's, of Debian's packages, with Debian's Python."""

import functools
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.service.running import free_port

# Of Debian; `scripts/test` installs them where it may.
_PACKAGES: Final = Path(__file__).with_name("rtsp-packages.txt")
_PYTHON: Final = "/usr/bin/python3"
_PROGRAM: Final = Path(__file__).with_name("rtsp_server.py")
_NEEDED: Final = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("appsrc", "x264enc", "rtph264pay")))
"""
_BITS: Final = 24


@functools.cache
def _is_installed() -> bool:
    return Path(_PYTHON).exists() and subprocess.run([_PYTHON, "-c", _NEEDED], capture_output=True).returncode == 0


class RtspServer:
    """Started, killed and started again on the same port.

    Args:
        still: uint8, (H, W, 3), RGB: what the camera sees, instead of a clock; W is a multiple of four.
        folder: for a file of it.
    """

    def __init__(self, still: np.ndarray | None = None, folder: Path | None = None) -> None:
        if not _is_installed():
            pytest.skip(
                f"needs GStreamer's RTSP server; on Debian: apt-get install {' '.join(_PACKAGES.read_text().split())}"
            )
        self.port = free_port()
        self.address = address_of(self.port)
        self._argv = [_PYTHON, str(_PROGRAM), str(self.port)]
        if still is not None:
            pixels = folder / "still.rgb"
            pixels.write_bytes(still.tobytes())
            self._argv += [str(pixels), str(still.shape[1]), str(still.shape[0])]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "the RTSP server has ended"
                assert time.monotonic() < deadline, "the RTSP server does not listen"
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "RtspServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def address_of(port: int) -> str:
    return f"rtsp://127.0.0.1:{port}/door"


def taken_at(picture: np.ndarray, near: float) -> float:
    """When a picture of the clock was taken, in Unix seconds; it says so in hundredths, and begins anew every two days.

    Args:
        picture: uint8, (H, W, 3).
        near: Unix seconds, within a day.
    """
    height, square = picture.shape[0], picture.shape[1] // _BITS
    bits = picture[height // 2, square // 2 :: square, 0] > 127
    number = int("".join("1" if bit else "0" for bit in bits), 2)
    apart = (number - round(near * 100)) % 2**_BITS
    return round(near * 100 + (apart if apart < 2 ** (_BITS - 1) else apart - 2**_BITS)) / 100
