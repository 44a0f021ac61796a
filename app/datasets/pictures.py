"""Finds the pictures of a dataset in a folder. The paths in the dataset are another's, and may be hostile."""

import re
from pathlib import Path
from typing import Final

_SEPARATORS: Final = re.compile(r"[\\/]+")
# Folders above the person's are another machine's; how many of them the folder here repeats is found out by trying.
_MAX_PARTS: Final = 16


def find_picture(images: Path, identity: str) -> Path | None:
    """The picture that `identity` names, at or below `images`.

    Of an identity such as `/data/faces/Alice/1.jpg` the longest end that is a file counts: `images/data/faces/Alice/1.jpg`, …,
    `images/Alice/1.jpg`. The person's folder is never left away.

    Args:
        images: a folder, resolved.
        identity: `DatasetRow.identity`, with separators of any system.

    Returns:
        None where there is no such file, or where it would lie outside of the folder (`..`, a symbolic link).
    """
    parts = [part for part in _SEPARATORS.split(identity) if part not in ("", ".")][-_MAX_PARTS:]
    if not parts or ".." in parts:
        return None
    for start in range(max(1, len(parts) - 1)):
        found = _inside(images, parts[start:])
        if found is not None:
            return found
    return None


def _inside(images: Path, parts: list[str]) -> Path | None:
    try:
        path = images.joinpath(*parts).resolve()
        return path if path.is_relative_to(images) and path.is_file() else None
    except (OSError, ValueError):  # too long a name, or a character that no file name has
        return None
