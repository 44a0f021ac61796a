"""A whole service of the tests' own, started as an operator starts it."""

import itertools
import os
import random
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from app.config import parse_settings
from app.embedder.client import EmbedderClient
from tests.prepared import put_cluster, put_models
from tests.service.commands import Commands

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 180
_COMMANDS = Commands()
ENDED_WITHIN_S = 60

SMALL = {"JOBS_WORKERS": "0", "EMBEDDER_WORKERS": "1"}
"""For a test that is about the web and its database: each other process takes a second of a core to start."""


# Below those that the kernel gives away, and each process of the tests has a thousand of its own.
_FIRST_PORT = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_START = random.randrange(1_000)
_PORTS = itertools.cycle(_FIRST_PORT + (_START + number) % 1_000 for number in range(1_000))


def free_port() -> int:
    """Of this machine, that nobody listens on; nobody else is given it while its server is not started yet, or away."""
    for port in itertools.islice(_PORTS, 1_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("No port is free.")


class RunningService:
    """`scripts/serve` with a storage folder and a port of its own.

    Args:
        fresh: it starts with an empty folder; else it finds the database and the model pack of an earlier start.
    """

    def __init__(
        self, storage: Path, *, port: int | None = None, env: dict[str, str] | None = None, fresh: bool = False
    ) -> None:
        self.storage = storage
        self._fresh = fresh
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # A machine that is busy with something else is no overload, unless a test says so.
        self.env = {"EMBEDDER_QUEUE_S": "10", **os.environ, **(env or {}), "STORAGE_DIR": str(storage)}
        self.process: subprocess.Popen[str] | None = None
        self.printed = storage.parent / f"{storage.name}.out"

    def start(self, *options: str) -> None:
        if not self._fresh:
            self._prepare()
        argv = [str(ROOT / "scripts/serve"), "--storage", str(self.storage), "--port", str(self.port), *options]
        with self.printed.open("w") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, env=self.env, start_new_session=True)
        until = time.monotonic() + READY_WITHIN_S
        while f"Facedex is ready on {self.url}" not in self.said():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}\n{self.logs()}"
            assert time.monotonic() < until, f"not ready: {self.said()}\n{self.logs()}"
            time.sleep(0.05)

    def _prepare(self) -> None:
        self.storage.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not (self.storage / "models/dlib").exists():
            put_models(self.storage / "models")
        if not (self.storage / "postgres").exists() and "VECTOR_DB_URL" not in self.env:
            put_cluster(self.storage)

    def said(self) -> str:
        return self.printed.read_text()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in self.storage.glob("logs/*.log"))

    @property
    def key(self) -> str:
        return (self.storage / "admin.key").read_text().strip()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"x-api-key": self.key}, timeout=60)

    def flask(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = _COMMANDS.run(arguments, self.env)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def part(self, *argv: str) -> tuple[psutil.Process, list[psutil.Process]]:
        """The process that was started with these arguments, and those that it has forked."""
        (master,) = [
            child
            for child in psutil.Process(self.process.pid).children()
            if argv_of(child)[1 : len(argv) + 1] == [*argv]
        ]
        return master, master.children()

    def pool(self) -> tuple[psutil.Process, list[psutil.Process]]:
        """The pool's master and its workers."""
        return self.part("-m", "app.embedder.pool")

    def web(self) -> tuple[psutil.Process, list[psutil.Process]]:
        """The web's arbiter and its workers."""
        return self.part("-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py"))

    def embedder(self) -> EmbedderClient:
        """A client of the pool's."""
        return EmbedderClient(parse_settings(storage_dir=self.storage).embedder_address)

    def wait_until_idle(self) -> None:
        """Until the pool knows of every worker that it has done its job, which clients may know a moment earlier."""
        eventually(lambda: all(worker.state != "busy" for worker in self.embedder().status().workers))

    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.storage / "postgres/postmaster.pid").read_text().split()[0]))

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send the signal, wait for the end, and see that nothing is left."""
        tree = self.tree()
        self.process.send_signal(number)
        code = self.process.wait(ENDED_WITHIN_S)
        _, alive = psutil.wait_procs(tree, timeout=ENDED_WITHIN_S)
        assert alive == [], f"left behind: {alive}"
        return code

    def kill(self) -> None:
        """For a test that failed: end what this test started."""
        if self.process is not None and self.process.poll() is None:
            tree = self.tree()
            self.process.terminate()
            _, alive = psutil.wait_procs(tree, timeout=30)
            for process in alive:
                process.kill()
            self.process.wait()


@contextmanager
def running_service(storage: Path, *options: str, env: dict[str, str] | None = None, fresh: bool = False):
    service = RunningService(storage, env=env, fresh=fresh)
    try:
        service.start(*options)
        yield service
        assert service.stop() == 0
    finally:
        service.kill()


def argv_of(process: psutil.Process) -> list[str]:
    """What the process was started with; nothing for one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie included
        return []


def eventually(condition, within_s: float = 120) -> None:
    """Wait for a condition that other processes bring about."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"never came true: {condition}"
        time.sleep(0.1)
