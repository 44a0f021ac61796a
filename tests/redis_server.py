"""A Redis of the test's own."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

_STARTED_WITHIN_S = 30


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[psutil.Popen]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on this machine")
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with psutil.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield process
        finally:
            if process.is_running():
                process.resume()
                process.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _STARTED_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "Redis did not start"
            time.sleep(0.05)
        else:
            return
