"""Installing a pack so that it is there whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.vision.packs import InstalledPack, PackManifest, write_manifest


@contextmanager
def staging(models_dir: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the packs, to build the pack `name` in; it is gone afterwards unless published.

    One process at a time: another that asks for the same name waits.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / f".lock-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = models_dir / f".staging-{name}"
        # Holding the lock, whatever lies here was left by a process that died.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, models_dir: Path, manifest: PackManifest) -> InstalledPack:
    """Check the staged pack's digests, then put it in the place of what is installed under its name.

    Raises:
        InvalidPack: a file is missing or has another digest than the manifest says.
    """
    write_manifest(folder, manifest)
    InstalledPack(folder, manifest).verify()
    _flush_to_disk(folder)
    target, outgoing = models_dir / manifest.name, models_dir / f".old-{manifest.name}"
    shutil.rmtree(outgoing, ignore_errors=True)
    if target.exists():
        target.rename(outgoing)
    folder.rename(target)
    shutil.rmtree(outgoing, ignore_errors=True)
    return InstalledPack(target, manifest)


def _flush_to_disk(folder: Path) -> None:
    """Without this a power cut after the rename could leave a pack with empty files."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
