"""Members and templates as bytes: what the feed of a gallery's changes sends, and what an edge controller keeps on its disk.

```
8 bytes   "FDXGAL01"
4 bytes   length of the header, unsigned, little-endian
N bytes   the header: a JSON object in UTF-8 (`Header`)
…         the templates: float32, little-endian, `dimension` each, in the order of the members
32 bytes  SHA-256 of everything before
```

Pure: the server and the edge controller both use it, and neither knows the other.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MEDIA_TYPE: Final = "application/vnd.facedex.gallery"

_MAGIC: Final = b"FDXGAL01"
_LENGTH: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = 32
_VALUE_BYTES: Final = 4
_MAX_DIMENSION: Final = 65_535
_PLAIN_FIELDS: Final = 3


class MalformedPage(ValueError):
    """The bytes are no such page, or are not as they were written."""


class PageMember(NamedTuple):
    """A member as of now.

    Attributes:
        key: the person's id.
        name: the display name.
        valid_from, valid_until: Unix seconds; None is unbounded.
        locks: names of the door locks that they may open.
        locks_malformed: their metadata has `locks` that are no list of names: none count.
        templates: how many of the page's are theirs, at least 1.
    """

    key: str
    name: str
    valid_from: float | None
    valid_until: float | None
    locks: tuple[str, ...]
    locks_malformed: bool
    templates: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a page says beside the templates.

    Attributes:
        source: whose members these are.
        contract, dimension: of the templates.
        version: of the state that the page leads to: what to ask for the next page, or later for what has changed, with.
        full: whoever reads it begins anew: what they had counts no more.
        more: another page follows; ask for it with `version` at once.
        members: new or changed.
        removed: keys of those who are gone, or never were there.
        saved_at: Unix seconds; only in a file: when it was last known to be right.
    """

    source: str
    contract: str
    dimension: int
    version: str
    full: bool
    more: bool
    members: tuple[PageMember, ...]
    removed: tuple[str, ...]
    saved_at: float | None = None


def encode(header: Header, blocks: Iterable[NDArray[np.float32]]) -> Iterator[bytes]:
    """The page's bytes, in parts.

    Args:
        blocks: float32, (n, D) each, together as many rows as the members have templates.
    """
    text = json.dumps(_told(header), ensure_ascii=False, separators=(",", ":")).encode()
    digest = hashlib.sha256()
    head = [_MAGIC + _LENGTH.pack(len(text)) + text]
    for part in chain(head, (np.ascontiguousarray(block, dtype="<f4").tobytes() for block in blocks)):
        digest.update(part)
        yield part
    yield digest.digest()


def decode(data: bytes | bytearray | memoryview) -> tuple[Header, NDArray[np.float32]]:
    """The header, and the templates: float32, (N, D), read-only, of the memory of `data`.

    Raises:
        MalformedPage: it is none, or was damaged; the message says what is wrong.
    """
    view = memoryview(data)
    start = len(_MAGIC) + _LENGTH.size
    if len(view) < start + _DIGEST_BYTES or bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise MalformedPage("It does not begin as a gallery's page does.")
    if hashlib.sha256(view[:-_DIGEST_BYTES]).digest() != view[-_DIGEST_BYTES:]:
        raise MalformedPage("Its SHA-256 is not that of its contents.")
    (length,) = _LENGTH.unpack(view[len(_MAGIC) : start])
    body = view[start + length : -_DIGEST_BYTES] if start + length <= len(view) - _DIGEST_BYTES else None
    if body is None:
        raise MalformedPage("Its header is cut off.")
    header = _header(view[start : start + length])
    rows = sum(member.templates for member in header.members)
    if len(body) != rows * header.dimension * _VALUE_BYTES:
        raise MalformedPage(f"Its members have {rows} templates; its bytes are not as many.")
    templates = np.frombuffer(body, dtype="<f4").reshape(rows, header.dimension).astype(np.float32, copy=False)
    templates.flags.writeable = False
    return header, templates


def _told(header: Header) -> dict[str, Any]:
    told: dict[str, Any] = {
        "source": header.source,
        "contract": header.contract,
        "dimension": header.dimension,
        "version": header.version,
        "full": header.full,
        "more": header.more,
        "members": [_member_told(member) for member in header.members],
        "removed": list(header.removed),
    }
    return told if header.saved_at is None else told | {"saved_at": header.saved_at}


def _member_told(member: PageMember) -> dict[str, Any]:
    """Without what most members have not got."""
    told: dict[str, Any] = {"key": member.key, "name": member.name, "templates": member.templates}
    if member.valid_from is not None:
        told["valid_from"] = member.valid_from
    if member.valid_until is not None:
        told["valid_until"] = member.valid_until
    if member.locks:
        told["locks"] = list(member.locks)
    if member.locks_malformed:
        told["locks_malformed"] = True
    return told


def _header(data: memoryview) -> Header:
    try:
        told = json.loads(bytes(data))
    except (ValueError, RecursionError):
        raise MalformedPage("Its header is no JSON.") from None
    told = _the(told, dict, "header")
    members = tuple(map(_member, _the(told.get("members"), list, "members")))
    removed = tuple(_the(key, str, "key") for key in _the(told.get("removed"), list, "removed"))
    dimension = _the(told.get("dimension"), int, "dimension")
    if not 1 <= dimension <= _MAX_DIMENSION:
        raise MalformedPage("Its 'dimension' is none.")
    return Header(
        source=_the(told.get("source"), str, "source"),
        contract=_the(told.get("contract"), str, "contract"),
        dimension=dimension,
        version=_the(told.get("version"), str, "version"),
        full=_the(told.get("full"), bool, "full"),
        more=_the(told.get("more"), bool, "more"),
        members=members,
        removed=removed,
        saved_at=_moment(told.get("saved_at"), "saved_at"),
    )


def _member(told: Any) -> PageMember:
    told = _the(told, dict, "members")
    if len(told) == _PLAIN_FIELDS:
        key, name, templates = told.get("key"), told.get("name"), told.get("templates")
        if type(key) is str and type(name) is str and type(templates) is int and templates > 0:
            return PageMember(key, name, None, None, (), False, templates)  # as most are, in a third of the time
    templates = _the(told.get("templates"), int, "templates")
    if templates < 1:
        raise MalformedPage("A member has no templates.")
    return PageMember(
        key=_the(told.get("key"), str, "key"),
        name=_the(told.get("name"), str, "name"),
        valid_from=_moment(told.get("valid_from"), "valid_from"),
        valid_until=_moment(told.get("valid_until"), "valid_until"),
        locks=tuple(_the(lock, str, "locks") for lock in _the(told.get("locks", []), list, "locks")),
        locks_malformed=_the(told.get("locks_malformed", False), bool, "locks_malformed"),
        templates=templates,
    )


def _the(value: Any, kind: type, name: str) -> Any:
    # Exactly: a bool is an int for `isinstance`.
    if type(value) is not kind:
        raise MalformedPage(f"Its {name!r} is no {kind.__name__}.")
    return value


def _moment(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise MalformedPage(f"Its {name!r} is no time.")
    return float(value)
