"""Runs PostgreSQL's programs: as ourselves, or, since they refuse to run as root, as a system user of their own.

That user owns the data and the socket's folder, and nothing else. It often cannot even get there: the checkout or the
storage lies below somebody's private folder. No permission of such a folder is touched. Instead the programs get a mount
namespace in which the three folders that they need are mounted again at a place that they can reach.
"""

import functools
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.errors import DatabaseUnavailable

SYSTEM_USER: Final = "facedex"

# One of these is covered by an empty file system in the namespace, where nothing outside it sees that.
_BASES: Final = ("/mnt", "/media", "/srv", "/opt", "/run")
_USERADD_NAME_TAKEN: Final = 9

_MOUNT_SCRIPT: Final = """
umask 022
mount -t tmpfs -o mode=755,size=1m facedex "$1"
shift
while [ "$1" != -- ]; do mkdir -p "$2"; mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""
# The kernel's signal on the parent's death comes only if the parent was alive when it was asked for.
_ALIVE_SCRIPT: Final = '[ "$PPID" = "$0" ] && exec "$@"'
_UNSHARE: Final = ("unshare", "--mount", "--propagation", "private", "--")
_REACHABLE_SCRIPT: Final = 'for folder in "$@"; do test -x "$folder" || exit 1; done'


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ServerFolders:
    """What the server's programs must reach.

    Attributes:
        data: the cluster, or the folder in which one is made.
        socket: the socket's folder, and
        run: the folder above it, which is private and ours.
        install: PostgreSQL's programs.
        libraries: theirs, found relative to `install`.
    """

    data: Path
    socket: Path
    run: Path
    install: Path
    libraries: Path


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A way to run the server's programs.

    Attributes:
        account: the system user; None runs them as ourselves.
        base: the folder that a mount namespace covers; None where none is needed.
        mounts: folders and where the programs see them, below `base`.
    """

    account: Account | None = None
    base: Path | None = None
    mounts: tuple[tuple[Path, Path], ...] = ()

    def inside(self, path: Path) -> Path:
        """The path under which the programs see `path`."""
        for outside, inside in self.mounts:
            if path.is_relative_to(outside):
                return inside / path.relative_to(outside)
        return path

    def command(self, argv: Sequence[str], *, death_signal: str) -> list[str]:
        """`argv` run in the sandbox, in the same process; it gets `death_signal` when the thread that starts it ends.

        The signal is asked for last: changing the user would cancel it.
        """
        privileges = ["setpriv", "--no-new-privs", "--pdeathsig", death_signal, *_as_user(self.account)]
        return [*self._namespace(), *privileges, "--", "sh", "-c", _ALIVE_SCRIPT, str(os.getpid()), *argv]

    def own(self, path: Path) -> None:
        """Give `path` to the server's user."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def own_tree(self, folder: Path) -> None:
        """Give `folder` and all in it to the server's user, unless it has it: after a restore, or a start as another."""
        if self.account is None or folder.stat().st_uid == self.account.uid:
            return
        # The folder itself comes last: until then, an interrupted change is noticed and repeated.
        for parent, _folders, files in os.walk(folder, topdown=False):
            for name in files:
                self.own(Path(parent, name))
            self.own(Path(parent))

    def _namespace(self) -> list[str]:
        if self.base is None:
            return []
        pairs = [str(path) for mount in self.mounts for path in mount]
        return [*_UNSHARE, "sh", "-euc", _MOUNT_SCRIPT, "sh", str(self.base), *pairs, "--"]


def choose_sandbox(folders: ServerFolders) -> Sandbox:
    """The simplest way to run the server's programs so that they reach the folders.

    Raises:
        DatabaseUnavailable: there is none; the message says what to do.
    """
    _require_tools("setpriv", "sh")
    if os.getuid() != 0:
        return Sandbox()
    account = _system_account()
    if _can_reach(account, folders.install / "bin", folders.data.parent, folders.run.parent):
        # Our own folder stays closed to everybody but this user, who may pass through it without seeing what is in it.
        os.chown(folders.run, -1, account.gid)
        folders.run.chmod(0o710)
        return Sandbox(account)
    if not _can_mount():
        raise DatabaseUnavailable(
            f"PostgreSQL cannot run as root, and its own user {SYSTEM_USER!r} cannot reach the program's or the storage"
            " folder, nor may this process mount them elsewhere. Let others pass through the folders above both"
            " (chmod o+x), run as an ordinary user, or set VECTOR_DB_URL."
        )
    return _mounted(account, folders)


def _mounted(account: Account, folders: ServerFolders) -> Sandbox:
    outside = (folders.data, folders.socket, folders.install, folders.libraries)
    # A base above one of the folders would hide it before it is mounted.
    bases = (Path(base) for base in _BASES)
    base = next(base for base in bases if base.is_dir() and not any(path.is_relative_to(base) for path in outside))
    # The libraries are found by their place relative to the programs: it is kept.
    site, inside = folders.libraries.parent, base / "program"
    mounts = [(folders.data, base / "data"), (folders.socket, base / "socket")]
    mounts += [(path, inside / path.relative_to(site)) for path in (folders.install, folders.libraries)]
    return Sandbox(account, base, tuple(mounts))


def _as_user(account: Account | None) -> list[str]:
    if account is None:
        return []
    return ["--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"]


def _can_reach(account: Account, *folders: Path) -> bool:
    argv = ["setpriv", *_as_user(account), "--", "sh", "-c", _REACHABLE_SCRIPT, "sh", *map(str, folders)]
    return _succeeds(argv)


@functools.cache
def _can_mount() -> bool:
    return shutil.which("unshare") is not None and _succeeds([*_UNSHARE, "mount", "-t", "tmpfs", "facedex", "/mnt"])


def _system_account() -> Account:
    try:
        return _look_up()
    except KeyError:
        _require_tools("useradd")
    home_and_shell = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    argv = ["useradd", "--system", "--user-group", *home_and_shell, SYSTEM_USER]
    made = subprocess.run(argv, capture_output=True, check=False)
    # Another installation may have made it at the same moment.
    if made.returncode not in (0, _USERADD_NAME_TAKEN):
        raise DatabaseUnavailable(
            f"The system user {SYSTEM_USER!r}, as which PostgreSQL is to run, could not be made."
            f" Make it, run as an ordinary user, or set VECTOR_DB_URL."
        )
    return _look_up()


def _look_up() -> Account:
    found = pwd.getpwnam(SYSTEM_USER)
    return Account(found.pw_uid, found.pw_gid)


def _require_tools(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            raise DatabaseUnavailable(
                f"The embedded database needs the program {name!r}; install it or set VECTOR_DB_URL."
            )


def _succeeds(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, cwd="/", capture_output=True, check=False).returncode == 0
