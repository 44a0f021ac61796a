"""What the first start of a service leaves in its storage folder: made once a run, copied for whoever needs one.

To make a database cluster, to migrate it and to prepare a pack take longer than many a test. Those that are about just that
begin with an empty folder all the same.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.config import Settings, parse_settings
from app.db import migrate
from app.db.embedded import EmbeddedPostgres
from app.db.session import Database
from app.vision.dlib_onnx import prepare_dlib_pack

FOLDER = "FACEDEX_TEST_PREPARED"
"""The environment variable that says where; the same for all processes of a run."""

# What nobody writes into is linked to.
_LINKED_FROM_BYTES = 1_000_000


def put_cluster(storage: Path) -> None:
    """Put a migrated database cluster with its passwords into a storage folder that has none."""
    # The data belong to the server's user.
    subprocess.run(["cp", "-a", *sorted(_made("cluster", _make_cluster).glob("postgres*")), storage], check=True)


def put_models(folder: Path) -> None:
    """Put the default pack into a folder for packs, which is made. Nobody may write into its large files."""
    shutil.copytree(_made("models", prepare_dlib_pack), folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def settings_in(folder: Path) -> Settings:
    """Settings of an installation with its storage there, and a database of which little is asked."""
    return parse_settings(storage_dir=folder, vector_db_url=None, web_workers=1, db_statement_timeout_s=60)


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name, made by whichever process of the run asks for it first."""
    done = Path(os.environ[FOLDER]) / name
    with done.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            begun = done.with_suffix(".new")
            make(begun)
            begun.rename(done)
    return done


def _make_cluster(storage: Path) -> None:
    storage.mkdir(mode=0o711)  # the database's own user has to pass through
    settings = settings_in(storage)
    server = EmbeddedPostgres(settings).start()
    try:
        database = Database(settings)
        migrate.upgrade(database.engine)
        database.close()
    finally:
        server.stop()


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).stat().st_size >= _LINKED_FROM_BYTES:
        with suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copy2(source, target)
