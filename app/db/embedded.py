"""The embedded PostgreSQL: a server of this installation alone, reached through one Unix socket, closed to other users.

Below the storage folder lie `postgres/` (the data), `postgres.key` and `postgres-superuser.key` (passwords, mode 600),
`postgres.lock` (locked while the server runs) and `logs/postgres.log`. The socket is in `Settings.run_dir`.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import psycopg

from app.config import Settings
from app.db.provision import connect_as_superuser, provision
from app.db.sandbox import Sandbox, ServerFolders, choose_sandbox
from app.db.server_files import (
    SUPERUSER,
    ServerFiles,
    ensure_key,
    install_folders,
    make_private_folder,
    read_key,
    write_private,
)
from app.db.server_process import ServerProcess, end_orphans, forget_ended
from app.db.server_size import server_settings
from app.errors import DatabaseUnavailable

_MAJOR_VERSION: Final = "18"
_LOG_MAX_BYTES: Final = 10 * 1024 * 1024
_STAGE_PREFIX: Final = "postgres.new-"
_POLL_S: Final = 0.05
# A process that was killed while it started another leaves the lock to that one for a moment, until it has become the program.
_LOCK_WITHIN_S: Final = 3.0
# A shutdown that an owner's death began may have much to write out.
_ORPHANS_END_WITHIN_S: Final = 20.0
# Nothing of our environment: it may hold secrets. PGTZ and its like would change the server.
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}

_INITDB: Final = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--no-locale",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
)
_FIXED_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%m [%p] ",
    # The details of an error are values of the row, such as names of persons; so may be those in the statement.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    # A segment that is used again keeps what was in it until it is overwritten: erased persons too.
    "wal_recycle": "off",
}


class EmbeddedPostgres:
    """Prepares and starts the server. Its messages are for whoever starts the service; no request leads here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = ServerFiles.of(settings)

    def prepare(self) -> None:
        """Make folders, passwords and an empty database cluster where they are missing. Repeating it changes nothing.

        A cluster is made in a folder beside and renamed when complete: killed at any moment, it is made anew next time.

        Raises:
            DatabaseUnavailable: it cannot be made or used here; the message says why.
        """
        with _owned(self._files):
            self._prepare()

    def start(self, timeout_s: float = 120.0) -> ServerProcess:
        """Start the server, and wait until it takes connections and holds our role, database and extension.

        The process ends with the thread that calls this, by a clean shutdown, even where that is killed: call it from the
        main thread of a process that stays. After a crash it first recovers everything that was acknowledged.

        Raises:
            DatabaseUnavailable: it runs already, or did not start; the reason is in its log.
        """
        with _owned(self._files) as lock:
            self._prepare()
            server = ServerProcess(self._spawn(self._sandbox(self._files.data)), self._files.data, lock.keep())
        try:
            self._wait_ready(server, timeout_s)
            provision(self._files)
        except BaseException as error:
            server.stop()
            if isinstance(error, psycopg.Error):
                raise DatabaseUnavailable(
                    "PostgreSQL started, but could not be set up; see logs/postgres.log."
                ) from error
            raise
        return server

    def _prepare(self) -> None:
        files = self._files
        make_private_folder(files.run)
        make_private_folder(files.socket, may_be_the_servers=True)
        for leftover in files.storage.glob(f"{_STAGE_PREFIX}*"):
            # initdb was killed; the server that it had started to fill the folder may go on filling it.
            end_orphans(leftover / "data", patience_s=_ORPHANS_END_WITHIN_S)
            shutil.rmtree(leftover, ignore_errors=True)
        end_orphans(files.data, patience_s=_ORPHANS_END_WITHIN_S)
        if _holds_cluster(files.data):
            if not files.superuser_key.exists():
                raise DatabaseUnavailable(
                    f"The storage folder has a database but no {files.superuser_key.name}: restore it."
                )
            return
        ensure_key(files.superuser_key)
        self._initialise()

    def _initialise(self) -> None:
        files = self._files
        stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=files.storage))
        sandbox = self._sandbox(stage)
        password = stage / "password"
        write_private(password, read_key(files.superuser_key))
        for path in (password, stage):
            sandbox.own(path)
        places = (f"--pgdata={sandbox.inside(stage / 'data')}", f"--pwfile={sandbox.inside(password)}")
        initdb = self._run(sandbox, "initdb", [*_INITDB, *places], death_signal="KILL")
        if initdb.wait() != 0:
            raise DatabaseUnavailable("The database could not be initialised; see logs/postgres.log.")
        (stage / "data").rename(files.data)
        _sync_folder(files.storage)
        shutil.rmtree(stage)

    def _spawn(self, sandbox: Sandbox) -> subprocess.Popen[bytes]:
        files = self._files
        sandbox.own_tree(files.data)
        sandbox.own(files.socket)
        forget_ended(files.data, files.socket)
        _rotate(files.log)
        values = {
            **server_settings(self._settings),
            **_FIXED_SETTINGS,
            "unix_socket_directories": str(sandbox.inside(files.socket)),
        }
        arguments = ["-D", str(sandbox.inside(files.data)), *_flags(values)]
        return self._run(sandbox, "postgres", arguments, death_signal="INT")

    def _run(
        self, sandbox: Sandbox, program: str, arguments: Sequence[str], *, death_signal: str
    ) -> subprocess.Popen[bytes]:
        binary = sandbox.inside(install_folders()[0] / "bin" / program)
        with _open_log(self._files.log) as log:
            return subprocess.Popen(
                sandbox.command([str(binary), *arguments], death_signal=death_signal),
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _sandbox(self, data: Path) -> Sandbox:
        install, libraries = install_folders()
        return choose_sandbox(ServerFolders(data, self._files.socket, self._files.run, install, libraries))

    def _wait_ready(self, server: ServerProcess, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if server.exited():
                raise DatabaseUnavailable("PostgreSQL did not start; the reason is in logs/postgres.log.")
            try:
                connect_as_superuser(self._files).close()
            except psycopg.OperationalError:
                time.sleep(_POLL_S)
            else:
                return
        raise DatabaseUnavailable(f"PostgreSQL was not ready within {timeout_s:g} s; see logs/postgres.log.")


class _Lock:
    """The right to run this storage folder's server."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: IO[bytes] | None = file

    def keep(self) -> IO[bytes]:
        """The locked file, to be closed by the caller from now on."""
        file, self._file = self._file, None
        assert file is not None
        return file

    def release(self) -> None:
        """Let others have it, unless it was kept."""
        if self._file is not None:
            self._file.close()


@contextmanager
def _owned(files: ServerFiles) -> Generator[_Lock]:
    """Hold the storage folder's server; what the file system refuses becomes an error that can be shown."""
    try:
        files.storage.mkdir(parents=True, exist_ok=True)
        files.log.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock(_take_lock(files.lock))
        try:
            yield lock
        finally:
            lock.release()
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str) else "the storage folder"
        raise DatabaseUnavailable(f"The embedded database cannot be set up: {name}: {error.strerror}.") from error


def _take_lock(path: Path) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    until_s = time.monotonic() + _LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                file.close()
                raise DatabaseUnavailable("The embedded database of this storage folder runs already.") from None
            time.sleep(_POLL_S)
        else:
            return file


def _holds_cluster(data: Path) -> bool:
    """Whether the folder holds a complete cluster that this version can run."""
    version = data / "PG_VERSION"
    if version.is_file():
        if (found := version.read_text().strip()) != _MAJOR_VERSION:
            raise DatabaseUnavailable(
                f"The data is PostgreSQL {found}'s; this is {_MAJOR_VERSION}: dump and restore it."
            )
        return True
    if data.is_dir() and any(data.iterdir()):
        raise DatabaseUnavailable(f"The folder {data.name} in the storage folder holds something else than a database.")
    return False


def _flags(values: Mapping[str, str]) -> list[str]:
    return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]


def _open_log(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _rotate(log: Path) -> None:
    """One older log is kept."""
    if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
