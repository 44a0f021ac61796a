"""Looks for what must not be there: in every file of a storage folder, and in a dump of its database."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np

from app.config import parse_settings
from app.db.provision import connect_as_superuser
from app.db.server_files import DATABASE, SUPERUSER, ServerFiles, install_folders, read_key

_WINDOW_BYTES = 64
_VECTOR_WINDOW = 8


def name_needles(name: str) -> dict[str, bytes]:
    """A name in UTF-8, as JSON escapes it, in a URL, and as Python's ascii() shows it."""
    return {
        f"name {name!r}": name.encode(),
        "name in JSON": json.dumps(name)[1:-1].encode(),
        "name in a URL": quote(name, safe="").encode(),
        "name in ASCII": ascii(name)[1:-1].encode(),
    }


def picture_needles(picture: bytes) -> dict[str, bytes]:
    """Some windows of a picture's bytes that are no format's boilerplate, and the same in base64's and in hexadecimal."""
    found = {}
    for place in (len(picture) // 4, len(picture) // 2, 3 * len(picture) // 4):
        window = picture[place : place + _WINDOW_BYTES]
        found |= {f"picture at {place}": window, f"picture at {place} in hex": window.hex().encode()}
    return found


def vector_needles(vector: np.ndarray, half: np.ndarray | None = None) -> dict[str, bytes]:
    """Windows of a vector's numbers: float32 and float64 in both orders, half precision as the index has it, and text."""
    found = {}
    for place in (0, len(vector) // 2, len(vector) - _VECTOR_WINDOW):
        part = vector[place : place + _VECTOR_WINDOW]
        for kind in ("<f4", ">f4", "<f8", ">f8"):
            found[f"vector at {place} as {kind}"] = part.astype(kind).tobytes()
        found[f"vector at {place} as text"] = ",".join(str(np.float32(value)) for value in part[:3]).encode()
        found[f"vector at {place} in a pickle"] = (
            b"G" + part[:1].astype(">f8").tobytes() + b"G" + part[1:2].astype(">f8").tobytes()
        )
        if half is not None:
            found[f"vector at {place} in the index"] = half[place : place + 2 * _VECTOR_WINDOW].astype("<f2").tobytes()
    return found


def found_in_files(folder: Path, needles: dict[str, bytes]) -> set[tuple[str, str]]:
    """Which of the needles are in which files, or in their names."""
    found = set()
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found |= {(os.fsdecode(name), what) for what, needle in needles.items() if needle in content or needle in name}
    return found


def superuser(storage: Path):
    """A connection to the running service's database that sees everything."""
    return connect_as_superuser(ServerFiles.of(parse_settings(storage_dir=storage, vector_db_url=None)), DATABASE)


def dump(storage: Path) -> bytes:
    """The running service's database as text: all rows of all tables."""
    files = ServerFiles.of(parse_settings(storage_dir=storage, vector_db_url=None))
    argv = [str(install_folders()[0] / "bin/pg_dump"), "-h", str(files.socket), "-U", SUPERUSER, DATABASE]
    env = {"PGPASSWORD": read_key(files.superuser_key), "PATH": os.defpath}
    done = subprocess.run(argv, env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def binary_dump(storage: Path, leaving_out: Iterable[str] = ()) -> bytes:
    """All rows of all tables in PostgreSQL's binary form, but for some tables and their partitions."""
    parts = []
    with superuser(storage) as connection:
        tables = connection.execute(
            "SELECT c.relname, i.inhparent::regclass::text FROM pg_class AS c LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid"
            " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
        ).fetchall()
        for table, parent in tables:
            if not {table, parent} & set(leaving_out):
                with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT BINARY)".encode()) as copy:
                    parts += [bytes(part) for part in copy]
    return b"".join(parts)


def found_in(content: bytes, needles: dict[str, bytes]) -> set[str]:
    """Which of the needles are in it."""
    return {what for what, needle in needles.items() if needle in content}
