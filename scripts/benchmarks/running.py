"""A service that a measurement starts for itself, on a storage folder and a port of its own."""

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
import httpx

from app.config import PROJECT_ROOT, Settings
from app.db.session import Database
from app.tenancy import acting, everything

_READY_WITHIN_S = 180.0
# What stands in for packages that the environment of a service does not have.
_HIDDEN = Path(__file__).with_name("hidden")


class Service:
    """`scripts/serve` with nothing of the operator's own settings: defaults, but for what is said here.

    Args:
        folder: holds its storage and its settings, and is removed by whoever made it.
        env: settings by name; those in `settings_file` can be changed while it runs.
    """

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.storage = folder / "storage"
        self.settings_file = folder / "settings"
        self.settings_file.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # The same pictures come again and again; what is measured is what becomes of new ones.
        self._env = {"FACE_CACHE_TTL_S": "0"} | (env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.spawn()
        until_s = time.monotonic() + _READY_WITHIN_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise click.ClickException("The service did not start.")
            time.sleep(0.05)

    def spawn(self, *, stderr: int = subprocess.DEVNULL) -> None:
        """Start it."""
        given = ["--storage", str(self.storage), "--port", str(self.port), "--env-file", str(self.settings_file)]
        argv = [sys.executable, "-P", "-m", "app.server", *given]
        env = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        env |= self._env | {"PYTHONPATH": os.pathsep.join([str(_HIDDEN), str(PROJECT_ROOT)])}
        self._process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=stderr)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Of its supervisor."""
        assert self._process is not None
        return self._process

    def stop(self) -> None:
        """Stop it, if it runs, and wait until it has ended."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None

    def reload(self) -> None:
        """Have it read its settings again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    @property
    def pid(self) -> int:
        """Of its supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def key(self) -> dict[str, str]:
        """The header that lets one in."""
        return {"x-api-key": (self.storage / "admin.key").read_text().strip()}

    @property
    def pool_address(self) -> str:
        """Where its pool listens."""
        return Settings(_env_file=None, storage_dir=self.storage).embedder_address

    def create_domain(self, name: str) -> None:
        """Make a domain, empty."""
        httpx.post(f"{self.url}/v1/domains", json={"name": name}, headers=self.key).raise_for_status()

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Connections to its database, with everything within reach."""
        settings = Settings(_env_file=None, storage_dir=self.storage, vector_db_enabled=True, vector_db_url=None)
        database = Database(settings)
        try:
            with acting(everything("bench")):
                yield database
        finally:
            database.close()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def temporary_service(env: dict[str, str] | None = None) -> Iterator[Service]:
    """A running service whose storage is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
        service = Service(Path(folder), env)
        try:
            service.start()
            yield service
        finally:
            service.stop()
