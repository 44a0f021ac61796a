"""Who is on a picture, told by its path: DeepFace keeps nothing else."""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from app.errors import InvalidName
from app.names import clean_name

_PICTURE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_DIGITS: Final = "0123456789"
_SEPARATORS: Final = " _-."
# Neither control characters nor lone surrogates can be stored as text.
_UNSTORABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# Where the pictures of a dataset that Facedex wrote are said to lie, a folder for each person.
_EXPORT_FOLDER: Final = "facedex-export"
# What would not stay one folder's name.
_ESCAPES: Final = {"%": "%25", "/": "%2F", "\\": "%5C"}
_DOTS: Final = {".": "%2E", "..": "%2E%2E"}


def export_identity(label: str, name: str) -> str:
    """The path of a picture `name` of a person, for a dataset that Facedex writes: any label comes back from it."""
    folder = _DOTS.get(label) or "".join(_ESCAPES.get(char, char) for char in label)
    return f"{_EXPORT_FOLDER}/{folder}/{name}"


class FolderLayout:
    """Finds the folder that holds everybody, from the paths of all pictures.

    A dataset may keep a folder for each person (`faces/Alice/1.jpg`), or none (`faces/Alice1.jpg`). There, the picture's folder
    would give everybody the same name. So it names nobody where other pictures lie in folders below it, or where all lie in it
    and have several names.

    Attributes:
        pictures: how many paths were seen.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self._common: list[str] | None = None
        self._last: str | None = None
        self._several_folders = False
        self._name: str | None = None
        self._several_names = False

    def see(self, text: str) -> None:
        """Take one more text into account, if it is the path of a picture."""
        if not text.lower().endswith(_PICTURE_SUFFIXES):
            return
        self.pictures += 1
        folder, file_name = _split(text)
        if not self._several_folders and not self._several_names:
            name = _without_number(file_name)
            self._several_names = self._name not in (None, name)
            self._name = name
        if folder != self._last:
            self._last = folder
            self._narrow(folder.split("/"))

    def _narrow(self, parts: list[str]) -> None:
        if self._common is None:
            self._common = parts
        elif parts != self._common:
            self._several_folders = True
            pairs = zip(self._common, parts, strict=False)
            same = next(
                (n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(self._common), len(parts))
            )
            self._common = parts[:same]

    @property
    def root(self) -> str | None:
        """The folder that is nobody's; None where each folder is somebody's."""
        if self._common is None or not (self._several_folders or self._several_names):
            return None
        return "/".join(self._common)

    @property
    def flat(self) -> bool:
        """All pictures lie in that folder."""
        return self._several_names and not self._several_folders


def raw_label(identity: str, root: str | None) -> str:
    """The person of a picture: the folder it lies in, or its name without the number at the end where that is nobody's.

    Args:
        identity: the path; either kind of slash.
        root: `FolderLayout.root`.
    """
    folder, file_name = _split(identity)
    above, _, person = folder.rpartition("/")
    if above == _EXPORT_FOLDER:
        return unquote(person)
    if folder == root or person in ("", ".", ".."):
        return _without_number(file_name)
    return person


def label_of(identity: str, root: str | None) -> str | None:
    """As `raw_label`, as Facedex keeps names; None where there is none.

    Raises:
        InvalidName: the path or the name cannot be kept.
    """
    if _UNSTORABLE.search(identity):
        raise InvalidName("The path holds control characters.")
    label = raw_label(identity, root).strip()
    return _kept(label) if label else None


@lru_cache(maxsize=4096)  # a person has several pictures, most often in a row
def _kept(label: str) -> str:
    return clean_name(label, "person")


def _split(path: str) -> tuple[str, str]:
    folder, _, file_name = path.replace("\\", "/").rpartition("/")
    return folder.rstrip("/"), file_name


def _without_number(file_name: str) -> str:
    stem, dot, suffix = file_name.rpartition(".")
    stem = stem if dot else suffix
    bare = stem.rstrip(_DIGITS)
    return bare if bare == stem else bare.rstrip(_SEPARATORS)
