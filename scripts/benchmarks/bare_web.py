"""The least that HTTP costs with Flask and Gunicorn: a bare application that takes a picture and answers with a vector."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
from flask import Flask, Response, jsonify, request

from app.config import PROJECT_ROOT, Settings

_READY_WITHIN_S, _ENDS_WITHIN_S = 30.0, 35.0  # a graceful end takes Gunicorn 30 at most
_VECTOR = [n / 128 for n in range(128)]

bare = Flask("bare")


@bare.post("/v1/embeddings")
def _answer() -> Response:
    picture = request.files["file"].read()
    return jsonify({"bytes": len(picture), "embedding": _VECTOR})


class BareWeb:
    """It runs. `port` is where, `cpu_s` the processor time of its processes so far."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self._process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Of all of its processes."""
        every = [self._process, *self._process.children()]
        return float(sum(times.user + times.system for times in (one.cpu_times() for one in every)))


@contextmanager
def bare_web() -> Iterator[BareWeb]:
    """Under as many processes and threads as the service has by default, and nothing else of ours."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
        settings = Settings(_env_file=None, storage_dir=Path(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shape = [f"--workers={settings.web_workers}", f"--threads={settings.web_threads}", "--worker-class=gthread"]
        argv = [sys.executable, "-m", "gunicorn", "--no-control-socket", *shape, "--keep-alive=5"]
        argv += [f"--bind=127.0.0.1:{port}", "--log-level=error", "scripts.benchmarks.bare_web:bare"]
        # In a folder without a `gunicorn.conf.py`.
        process = subprocess.Popen(argv, cwd=folder, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)})
        try:
            _await(port, process)
            yield BareWeb(port, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    until_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise click.ClickException("The bare application did not start.")
