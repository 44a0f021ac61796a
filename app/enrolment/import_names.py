"""Whose picture a file of an import is, by its path. Pure; paths name persons here, and never a place on a disk."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from app.errors import InvalidName, UnsafePath
from app.names import clean_name, has_control_characters

# What systems leave in folders without being asked.
_LITTER: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".directory"})
_LITTER_FOLDERS: Final = frozenset({"__MACOSX", ".git", "@eaDir"})
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_NAME_MAX_CHARS: Final = 1000
_DIGITS_AT_END: Final = re.compile(r"[\s_\-.]*\d+$")


def is_litter(path: str) -> bool:
    """Whether it is no file of anybody's: a folder's entry, or what systems leave in folders."""
    parts = path.split("/")
    return (
        path.endswith("/")
        or parts[-1].lower() in _LITTER
        or parts[-1].startswith("._")
        or not _LITTER_FOLDERS.isdisjoint(parts)
    )


def require_safe(path: str) -> None:
    """Refuse what is no plain relative path: it may mean harm to whoever unpacks it, and nobody knows whom it means.

    Raises:
        UnsafePath: absolute, climbing out, with backslashes or control characters, too long, or empty in between.
    """
    if not path or len(path) > _NAME_MAX_CHARS:
        raise UnsafePath("The file's name is empty or too long.")
    if has_control_characters(path) or "\ufffd" in path:
        raise UnsafePath("The file's name holds control characters, or is not valid UTF-8.")
    if "\\" in path:
        raise UnsafePath("The file's name holds backslashes; folders are parted by slashes.")
    if path.startswith("/") or _DRIVE.match(path):
        raise UnsafePath("The file's name is an absolute path.")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise UnsafePath("The file's name climbs out of its folder.")


def label_of(path: str, *, skip: int) -> str:
    """The person of a safe path: the first folder after `skip` folders, or, at the top, the file's name without its number.

    `Alice/2023/1.jpg` is Alice's, as are `Alice.jpg`, `Alice1.jpg` and `Alice_02.jpg`.

    Raises:
        InvalidName: nobody can have that label.
    """
    parts = PurePosixPath(path).parts[skip:]
    if len(parts) > 1:
        return clean_name(parts[0], "folder's name")
    stem = PurePosixPath(parts[0]).stem if parts else ""
    return clean_name(_DIGITS_AT_END.sub("", stem), "file's name without its number")


def folders_around(paths: Sequence[str]) -> int:
    """How many folders are around all the persons' folders: 1 where everything lies in folders of one folder, else 0.

    So are the folders that browsers upload, and most zips.
    """
    safe = [parts for path in paths if not is_litter(path) and len(parts := _parts(path)) > 0]
    if not safe or any(len(parts) < 3 for parts in safe):
        return 0
    return 1 if len({parts[0] for parts in safe}) == 1 else 0


def shown(path: str) -> str:
    """The path as it can be stored and shown: what no text can hold is escaped."""
    text = "".join(char if not has_control_characters(char) else ascii(char)[1:-1] for char in path[:_NAME_MAX_CHARS])
    return text or "file"


def _parts(path: str) -> tuple[str, ...]:
    try:
        require_safe(path)
    except InvalidName:
        return ()
    return PurePosixPath(path).parts
