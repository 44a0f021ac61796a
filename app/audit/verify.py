"""Whether a chain of events is whole: nothing changed, missing, put in, moved or cut off. Pure, one event at a time."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """What is wrong with an event, or with its place."""

    CHANGED = "changed"
    """Its text and the hash before it do not give its hash."""

    MISSING = "missing"
    """There is none of that number."""

    OUT_OF_ORDER = "out of order"
    """It stands under another number than its text says."""

    CUT_AT_BEGINNING = "cut off at the beginning"
    """The chain does not begin behind the event that was pruned last."""

    CUT_AT_END = "cut off at the end"
    """The chain ends before its head, or before a head that was noted elsewhere."""

    BEYOND_HEAD = "beyond the head"
    """It stands behind the chain's head."""

    OTHER_HEAD = "not the head's"
    """The event of the head's number, or of a noted head's, has another hash: the chain was written anew from somewhere."""

    FOREIGN = "another domain's"
    """Its text names another domain than its chain."""


@dataclass(frozen=True, slots=True)
class Link:
    """One event as it is stored.

    Attributes:
        hash: 32 bytes.
        consistent: whether what is stored beside the text says the same as the text.
    """

    seq: int
    body: str
    hash: bytes
    consistent: bool = True


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in a chain: the number of an event, and its hash; 0 and 32 zero bytes before the first."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Break:
    """The first event where a chain is broken."""

    seq: int
    fault: Fault

    def __str__(self) -> str:
        return f"event {self.seq}: {self.fault.value}"


def find_break(
    links: Iterable[Link], *, begin: Anchor, head: Anchor, domain: str | None, noted: Anchor | None = None
) -> Break | None:
    """The first fault of a chain, None where it is whole.

    Args:
        links: its events, by number.
        begin: what stands before the first of them: the last one that was pruned.
        head: its end, as the chain's own row has it.
        domain: the id that its events name; None for the installation.
        noted: a place that somebody wrote down before.
    """
    last = begin
    if noted is not None and (fault := _check_noted(begin, noted)) is not None:
        return fault
    for link in links:
        if (fault := _check(link, last, begin, head, domain)) is not None:
            return fault
        last = Anchor(link.seq, link.hash)
        if noted is not None and (fault := _check_noted(last, noted)) is not None:
            return fault
    if last != head:
        return Break(last.seq + 1, Fault.CUT_AT_END) if last.seq < head.seq else Break(last.seq, Fault.OTHER_HEAD)
    if noted is not None and noted.seq > last.seq:
        return Break(last.seq + 1, Fault.CUT_AT_END)
    return None


def _check_noted(place: Anchor, noted: Anchor) -> Break | None:
    return Break(place.seq, Fault.OTHER_HEAD) if place.seq == noted.seq and place.hash != noted.hash else None


def _check(link: Link, last: Anchor, begin: Anchor, head: Anchor, domain: str | None) -> Break | None:
    if link.seq != last.seq + 1:
        missing = Fault.CUT_AT_BEGINNING if last == begin else Fault.MISSING
        return Break(last.seq + 1, missing)
    if link.seq > head.seq:
        return Break(link.seq, Fault.BEYOND_HEAD)
    body = _parsed(link.body)
    if isinstance(body.get("seq"), int) and body["seq"] != link.seq:
        return Break(link.seq, Fault.OUT_OF_ORDER)
    if hashlib.sha256(last.hash + link.body.encode()).digest() != link.hash or not link.consistent:
        return Break(link.seq, Fault.CHANGED)
    return Break(link.seq, Fault.FOREIGN) if body.get("domain") != domain else None


def _parsed(body: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
