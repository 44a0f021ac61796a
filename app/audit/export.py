"""Events in a file from which anybody can verify them; docs/operating.md describes the format."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from app.audit.event import timestamp
from app.audit.reading import ChainInfo, before, links, span
from app.audit.verify import Anchor, Break, Link, find_break
from app.errors import InvalidRequest

FORMAT: Final = "facedex-audit-1"


def export_lines(
    session: Session, chain: ChainInfo, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[str]:
    """The file's lines, without line ends: what stands before the first event and where the last one is; then the events."""
    first, last = span(session, chain, since, until)
    begin, end = chain.head, chain.head
    if first <= last:
        begin = before(session, chain, first)
        end = before(session, chain, last + 1) if last < chain.head.seq else chain.head
    yield json.dumps(
        {
            "format": FORMAT,
            "domain": chain.domain,
            "previous": str(begin),
            "last": str(end),
            "chain_head": str(chain.head),
            "exported_at": timestamp(datetime.now(UTC)),
        }
    )
    for link in links(session, chain, first, last) if first <= last else ():
        yield json.dumps({"seq": link.seq, "hash": link.hash.hex(), "body": link.body})


def find_break_in_file(lines: Iterable[str], noted: Anchor | None = None) -> tuple[str | None, Anchor, Break | None]:
    """Verify an exported file, line by line: whose events it has, where they end, and the first fault.

    Raises:
        InvalidRequest: it is no such file; the message names the line.
    """
    numbered = enumerate(lines, 1)
    header = _object(*next(numbered, (1, "")))
    if header.get("format") != FORMAT:
        raise InvalidRequest(f"The file does not begin as {FORMAT} does.")
    begin, head = (parse_anchor(str(header.get(name))) for name in ("previous", "last"))
    domain = header.get("domain")
    broken = find_break(map(_link, numbered), begin=begin, head=head, domain=domain, noted=noted)
    return domain, head, broken


def parse_anchor(value: str) -> Anchor:
    """A place in a chain, as `SEQ:HASH`.

    Raises:
        InvalidRequest: it is none.
    """
    seq, _, digest = value.partition(":")
    try:
        anchor = Anchor(int(seq), bytes.fromhex(digest))
    except ValueError:
        raise InvalidRequest("A place in a chain is written SEQ:HASH.") from None
    if len(anchor.hash) != 32 or anchor.seq < 0:
        raise InvalidRequest("A place in a chain is written SEQ:HASH.")
    return anchor


def _link(numbered: tuple[int, str]) -> Link:
    number, line = numbered
    found = _object(number, line)
    try:
        return Link(int(found["seq"]), str(found["body"]), bytes.fromhex(found["hash"]))
    except (LookupError, ValueError, TypeError):
        raise InvalidRequest(f"Line {number} is no event.") from None


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(f"Line {number} is no JSON object.")
    return found
