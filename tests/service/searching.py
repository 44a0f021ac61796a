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
_MARK_BYTES = 6
_AT_ONCE_BYTES = 1 << 18


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
    finder = _Finder(needles)
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        found_here = content(path)
        found |= {(os.fsdecode(name), what) for what in finder.found_in(found_here) | finder.found_in(name)}
    return found


def content(path: Path) -> bytes:
    """Nothing of what is no file; and files of a server that runs may go at any moment."""
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except FileNotFoundError:
        return b""


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
    return _Finder(needles).found_in(content)


class _Finder:
    """Looks for hundreds of needles at once: each by itself would be looked for in hundreds of megabytes.

    Of each needle, six bytes that are no run of zeros are its mark. A place where one may be has the first two bytes of a mark,
    then the next two of one, then the next two: three looks into tables. Only there the needles themselves are compared.
    """

    def __init__(self, needles: dict[str, bytes]) -> None:
        self._short = {what: needle for what, needle in needles.items() if len(needle) < _MARK_BYTES}
        self._by_mark: dict[bytes, list[tuple[str, bytes, int]]] = {}
        self._tables = np.zeros((_MARK_BYTES // 2, 65_536), dtype=bool)
        for what, needle in needles.items():
            if what not in self._short:
                places = range(min(len(needle) - _MARK_BYTES + 1, 8))
                place = max(places, key=lambda at, needle=needle: len(set(needle[at : at + _MARK_BYTES]) - {0}))
                mark = needle[place : place + _MARK_BYTES]
                self._by_mark.setdefault(mark, []).append((what, needle, place))
                self._tables[range(len(self._tables)), np.frombuffer(mark, "<u2")] = True

    def found_in(self, content: bytes) -> set[str]:
        """Which of them are in it."""
        found = {what for what, needle in self._short.items() if needle in content}
        for start in range(0, max(0, len(content) - _MARK_BYTES + 1), _AT_ONCE_BYTES):
            for at in self._candidates(content, start):
                for what, needle, place in self._by_mark.get(content[at : at + _MARK_BYTES], ()):
                    if what not in found and at >= place and content.startswith(needle, at - place):
                        found.add(what)
        return found

    def _candidates(self, content: bytes, start: int) -> list[int]:
        size = min(_AT_ONCE_BYTES, len(content) - _MARK_BYTES + 1 - start)
        found: list[int] = []
        for odd in range(min(2, size)):
            # Pairs of bytes as they lie, and once more from the second byte on.
            pairs = np.frombuffer(content, "<u2", (size - odd + _MARK_BYTES - 1) // 2, start + odd)
            places = np.flatnonzero(self._tables[0][pairs[: (size - odd + 1) // 2]])
            for number, table in enumerate(self._tables[1:], 1):
                places = places[table[pairs[places + number]]]
            found += (2 * places + start + odd).tolist()
        return found
