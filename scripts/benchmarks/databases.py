"""An embedded server that a measurement starts for itself, without the rest of a service."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import Settings, parse_settings
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.db.server_process import ServerProcess
from app.db.session import Database
from app.tenancy import acting, everything


class Server:
    """PostgreSQL as the service runs it, in a folder of its own, and connections to it with everything within reach."""

    def __init__(self, folder: Path) -> None:
        storage = folder / "storage"
        self.settings: Settings = parse_settings(storage_dir=storage, vector_db_url=None, vector_db_enabled=True)
        storage.mkdir(mode=0o711)
        for place in (self.settings.run_dir, self.settings.logs_dir):
            place.mkdir()
        folder.chmod(0o711)  # the server's own user passes through
        self.database = Database(self.settings)
        self._running: ServerProcess | None = None

    def start(self) -> None:
        """Start it, and migrate."""
        server = EmbeddedPostgres(self.settings)
        server.prepare()
        self._running = server.start()
        upgrade(self.database.engine)

    def stop(self) -> None:
        """Close the connections and stop it, where it runs."""
        self.database.close()
        if self._running is not None:
            self._running.stop()
            self._running = None


@contextmanager
def temporary_server() -> Iterator[Server]:
    """A running server whose data is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
        server = Server(Path(folder))
        try:
            server.start()
            with acting(everything("bench")):
                yield server
        finally:
            server.stop()


def forget_files(folder: Path) -> None:
    """Have the system read them from the disk next time."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
