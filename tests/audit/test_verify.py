"""Whoever changes, drops, moves or inserts events is found out, and the event is named."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from app import audit
from app.audit import retention
from app.audit.chain import append
from app.audit.event import event_now
from app.audit.examination import examine, missing_chains
from app.audit.export import export_lines, find_break_in_file, parse_anchor
from app.audit.reading import chain_of, chains, snapshot
from app.audit.verify import Anchor, Break, Fault
from app.db.session import Database
from app.errors import InvalidRequest
from app.tenancy import carried
from tests.db_server import Maker, random_units

OF_CHAIN = "chain_id = (SELECT id FROM audit_chains WHERE domain_id = :domain)"


@pytest.fixture
def domain_id(database: Database, make_gallery: Maker) -> int:
    """A domain with ten events."""
    domain_id = make_gallery("people", random_units(1, 8)).domain_id
    write(database, domain_id, 10)
    return domain_id


def write(database: Database, domain_id: int | None, count: int) -> None:
    for number in range(count):
        with database.transaction() as session:
            audit.record(session, "test.done", domain_id=domain_id, number=number)


def verify(database: Database, domain_id: int | None, noted: Anchor | None = None) -> Break | None:
    with snapshot(database) as session:
        return examine(session, chain_of(session, domain_id), noted)


def head(database: Database, domain_id: int | None) -> Anchor:
    with snapshot(database) as session:
        return chain_of(session, domain_id).head


def test_an_untouched_chain_is_whole(database: Database, domain_id: int) -> None:
    write(database, None, 3)
    assert verify(database, domain_id) is None
    assert verify(database, None) is None
    assert verify(database, domain_id, head(database, domain_id)) is None


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        (
            "UPDATE audit_events SET body = replace(body, 'test.done', 'test.gone') WHERE seq = 5",
            (5, Fault.CHANGED),
        ),
        ("UPDATE audit_events SET body = 'x' WHERE seq = 5", (5, Fault.CHANGED)),
        ("UPDATE audit_events SET hash = sha256('x') WHERE seq = 5", (5, Fault.CHANGED)),
        ("UPDATE audit_events SET at = at - interval '1 year' WHERE seq = 5", (5, Fault.CHANGED)),
        ("UPDATE audit_events SET domain_id = domain_id + 1 WHERE seq = 5", (5, Fault.CHANGED)),
        ("DELETE FROM audit_events WHERE seq = 5", (5, Fault.MISSING)),
        ("DELETE FROM audit_events WHERE seq IN (5, 6)", (5, Fault.MISSING)),
        ("DELETE FROM audit_events WHERE seq = 1", (1, Fault.CUT_AT_BEGINNING)),
        ("DELETE FROM audit_events WHERE seq <= 4", (1, Fault.CUT_AT_BEGINNING)),
        ("DELETE FROM audit_events WHERE seq = 10", (10, Fault.CUT_AT_END)),
        ("DELETE FROM audit_events WHERE seq > 7", (8, Fault.CUT_AT_END)),
        ("DELETE FROM audit_events", (1, Fault.CUT_AT_END)),
        (
            "WITH a AS (SELECT * FROM audit_events WHERE seq = 3), b AS (SELECT * FROM audit_events WHERE seq = 7)"
            " UPDATE audit_events AS e SET body = CASE e.seq WHEN 3 THEN b.body ELSE a.body END,"
            " hash = CASE e.seq WHEN 3 THEN b.hash ELSE a.hash END FROM a, b WHERE e.seq IN (3, 7)",
            (3, Fault.OUT_OF_ORDER),
        ),
        (
            "INSERT INTO audit_events SELECT chain_id, 11, domain_id, at, body, hash FROM audit_events WHERE seq = 10",
            (11, Fault.BEYOND_HEAD),
        ),
        ("UPDATE audit_chains SET head_hash = sha256('x') WHERE domain_id IS NOT NULL", (10, Fault.OTHER_HEAD)),
        ("UPDATE audit_chains SET head_seq = 11 WHERE domain_id IS NOT NULL", (11, Fault.CUT_AT_END)),
        ("UPDATE audit_chains SET domain_uid = gen_random_uuid() WHERE domain_id IS NOT NULL", (1, Fault.FOREIGN)),
        (
            "UPDATE audit_chains SET pruned_seq = 4, pruned_hash = sha256('x') WHERE domain_id IS NOT NULL;"
            " DELETE FROM audit_events WHERE seq <= 4",
            (5, Fault.CHANGED),
        ),
    ],
)
def test_the_event_that_was_tampered_with_is_named(
    database: Database, domain_id: int, tamper, statement, wanted
) -> None:
    for part in statement.split(";"):
        tamper(part)
    broken = verify(database, domain_id)
    assert broken is not None
    assert (broken.seq, broken.fault) == wanted
    assert str(wanted[0]) in str(broken)
    assert wanted[1].value in str(broken)


def rewrite_from(database: Database, domain_id: int, first: int, upto: int) -> None:
    """What somebody does who owns the database and knows the rules: the end of the chain with right hashes."""
    with database.maintenance() as connection:
        rows = connection.execute(
            text(f"SELECT seq, body, hash FROM audit_events WHERE {OF_CHAIN} ORDER BY seq"), {"domain": domain_id}
        ).all()
        before = bytes(rows[first - 2].hash)
        for seq, body, _ in rows[first - 1 :]:
            changed = body.replace('"client":"test"', '"client":"other"')
            before = hashlib.sha256(before + changed.encode()).digest()
            connection.execute(
                text(f"UPDATE audit_events SET body = :body, hash = :hash WHERE seq = :seq AND {OF_CHAIN}"),
                {"body": changed, "hash": before, "seq": seq, "domain": domain_id},
            )
            if seq == upto:
                break
        connection.execute(
            text(f"DELETE FROM audit_events WHERE seq > :upto AND {OF_CHAIN}"), {"upto": upto, "domain": domain_id}
        )
        connection.execute(
            text("UPDATE audit_chains SET head_seq = :seq, head_hash = :hash WHERE domain_id = :domain"),
            {"seq": upto, "hash": before, "domain": domain_id},
        )


def test_a_chain_that_was_written_anew_differs_from_a_head_noted_elsewhere(database: Database, domain_id: int) -> None:
    noted = head(database, domain_id)
    rewrite_from(database, domain_id, 5, 10)
    write(database, domain_id, 3)
    assert verify(database, domain_id) is None  # nothing in the database tells
    assert verify(database, domain_id, noted) == Break(10, Fault.OTHER_HEAD)


def test_a_chain_that_was_shortened_with_its_head_ends_before_the_noted_one(database: Database, domain_id: int) -> None:
    noted = head(database, domain_id)
    rewrite_from(database, domain_id, 5, 8)
    assert verify(database, domain_id) is None
    assert verify(database, domain_id, noted) == Break(9, Fault.CUT_AT_END)


def test_a_chain_that_is_gone_altogether_is_missed(database: Database, domain_id: int, tamper) -> None:
    with database.transaction() as session:
        audit.record(session, "domain.created", domain_id=None, id="00000000-0000-0000-0000-000000000001")
        uid = str(session.scalar(text("SELECT uid FROM domains")))
    tamper(f"DELETE FROM audit_events WHERE {OF_CHAIN}", domain=domain_id)
    tamper("DELETE FROM audit_chains WHERE domain_id = :domain", domain=domain_id)
    with snapshot(database) as session:
        told: set[str] = set()
        assert [examine(session, chain, told=told) for chain in chains(session)] == [None]
        assert missing_chains(session, told) == sorted([uid, "00000000-0000-0000-0000-000000000001"])


def test_a_chain_is_whole_while_events_are_appended_and_pruned(
    database: Database, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_PER_TRANSACTION", 2)
    domain_id = make_gallery("people", random_units(1, 8)).domain_id
    old = event_now("test.old", (), {})
    for _ in range(120):
        with database.transaction() as session:
            append(session, replace(old, at=old.at - timedelta(days=30)), domain_id)

    with ThreadPoolExecutor(2) as threads:
        changes = [
            threads.submit(carried(write), database, domain_id, 60),
            threads.submit(carried(lambda: retention.prune_all(database, retention_days=1).events)),
        ]
        found = []
        while not all(each.done() for each in changes):
            found.append(verify(database, domain_id))
    assert [each.result() for each in changes] == [None, 120]
    assert len(found) > 1
    assert set(found) == {None}


def exported(database: Database, domain_id: int, **span) -> list[str]:
    with snapshot(database) as session:
        return list(export_lines(session, chain_of(session, domain_id), **span))


def test_an_exported_file_is_verified_by_itself(database: Database, domain_id: int) -> None:
    lines = exported(database, domain_id)
    assert len(lines) == 11
    domain, last, broken = find_break_in_file(lines)
    assert (domain is not None, last, broken) == (True, head(database, domain_id), None)
    assert find_break_in_file(lines, last)[2] is None


def test_a_part_of_a_chain_is_exported_and_verified(database: Database, domain_id: int) -> None:
    with database.transaction() as session:
        moments = session.scalars(text("SELECT at FROM audit_events ORDER BY seq")).all()
    lines = exported(database, domain_id, since=moments[3], until=moments[7])
    assert [json.loads(line)["seq"] for line in lines[1:]] == [4, 5, 6, 7]
    assert find_break_in_file(lines)[2] is None
    nothing = exported(database, domain_id, since=moments[9].replace(year=2999))
    assert (len(nothing), find_break_in_file(nothing)[2]) == (1, None)


def test_a_file_that_was_tampered_with_names_the_event(database: Database, domain_id: int) -> None:
    lines = exported(database, domain_id)
    changed = [line.replace('\\"number\\":4', '\\"number\\":7') for line in lines]
    assert changed != lines
    assert find_break_in_file(changed)[2] == Break(5, Fault.CHANGED)
    assert find_break_in_file(lines[:5] + lines[6:])[2] == Break(5, Fault.MISSING)
    assert find_break_in_file(lines[:-2])[2] == Break(9, Fault.CUT_AT_END)
    assert find_break_in_file([lines[0], *lines[3:]])[2] == Break(1, Fault.CUT_AT_BEGINNING)


@pytest.mark.parametrize("lines", [[], ["{}"], ["x"], ["[]"], ['{"format": "facedex-audit-1"}']])
def test_a_file_that_is_no_export_is_refused(lines: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        find_break_in_file(lines)


def test_a_line_that_is_no_event_is_named(database: Database, domain_id: int) -> None:
    lines = exported(database, domain_id)
    lines[4] = lines[4][:-5]
    with pytest.raises(InvalidRequest, match="Line 5"):
        find_break_in_file(lines)


@pytest.mark.parametrize("given", ["", "1", "x:00", "1:zz", "1:00", "-1:" + "00" * 32])
def test_what_is_no_place_in_a_chain_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="SEQ:HASH"):
        parse_anchor(given)
