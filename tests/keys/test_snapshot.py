import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import pytest

from app.keys.principal import Scope
from app.keys.records import KeyRecord, why_refused
from app.keys.secrets import Secret, new_secret
from app.keys.snapshot import InvalidSnapshot, Moment, Snapshot, read_head, read_snapshot, write_snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)
TEXT, SECRET = new_secret()
OLD_TEXT, OLD = new_secret()
SIGNING_KEY = b"k" * 64
TAKEN = Moment(1_000_000.0, 500.0, "boot")


def record(**changes) -> KeyRecord:
    known = {
        "id": "5f6cb2a5-0000-4000-8000-000000000000",
        "name": "door",
        "secrets": (SECRET, replace(OLD, until=LATER)),
        "scopes": frozenset({Scope.RECOGNIZE}),
        "every_domain": False,
        "domains": frozenset({"a/b Škoda", "hers"}),
        "domain_ids": frozenset({3}),
        "rate_per_minute": 5,
        "expires_at": LATER,
    }
    return KeyRecord(**{**known, **changes})


SNAPSHOT = Snapshot(TAKEN, (record(),)).without("another", NOW, "cli")


def test_what_is_written_is_read_again():
    assert read_snapshot(BytesIO(write_snapshot(SNAPSHOT, SIGNING_KEY)), SIGNING_KEY) == SNAPSHOT


def test_its_head_alone_tells_its_age_and_what_was_revoked():
    head = read_head(BytesIO(write_snapshot(SNAPSHOT, SIGNING_KEY)), SIGNING_KEY)
    assert (head.taken, head.revoked) == (TAKEN, SNAPSHOT.revoked)
    assert head.is_revoked("another")
    assert not head.is_revoked(record().id)


def test_it_holds_no_text_of_a_key():
    assert TEXT.split("_", 2)[2].encode() not in write_snapshot(SNAPSHOT, SIGNING_KEY)


def test_whatever_was_changed_in_it_it_is_not_read():
    written = write_snapshot(SNAPSHOT, SIGNING_KEY)
    signature, head, body = written.split(b"\n")
    keys = json.loads(body)
    keys[0]["scopes"] = ["admin"]
    told = json.loads(head)
    told["revoked"] = []
    for broken in (
        b"",
        written[:-1],
        written.replace(b"door", b"ddor"),
        b"\n".join((signature, head, json.dumps(keys).encode())),
        b"\n".join((signature, json.dumps(told).encode(), body)),
        b"\n".join((b"", head, body)),
        write_snapshot(SNAPSHOT, b"x" * 64),
    ):
        with pytest.raises(InvalidSnapshot):
            read_snapshot(BytesIO(broken), SIGNING_KEY)


def test_it_is_gone_by_until_it_is_too_old():
    assert SNAPSHOT.is_fresh(Moment(1_000_100.0, 600.0, "boot"), max_age_s=100)
    assert not SNAPSHOT.is_fresh(Moment(1_000_101.0, 601.0, "boot"), max_age_s=100)
    assert not SNAPSHOT.is_fresh(Moment(1_000_101.0, 1.0, "next boot"), max_age_s=100)


def test_a_clock_set_back_does_not_make_it_young_again():
    assert not SNAPSHOT.is_fresh(Moment(1_000_001.0, 700.0, "boot"), max_age_s=100)  # the machine knows better
    assert not SNAPSHOT.is_fresh(Moment(990_000.0, 1.0, "next boot"), max_age_s=100)  # taken in the future


def test_a_clock_set_right_by_a_second_is_no_reason_to_refuse_it():
    assert SNAPSHOT.is_fresh(Moment(999_999.0, 500.0, "next boot"), max_age_s=100)


def test_a_revoked_key_is_gone_and_remembered_and_the_snapshot_no_younger():
    after = SNAPSHOT.without(record().id, NOW, "cli")
    assert after.find(SECRET.prefix) is None
    assert [entry.key_id for entry in after.revoked] == ["another", record().id]
    assert after.taken == TAKEN


@pytest.mark.parametrize(
    ("changes", "text", "now", "reason"),
    [
        ({}, TEXT, NOW, None),
        ({}, OLD_TEXT, NOW, None),
        ({}, OLD_TEXT, LATER, "expired"),
        ({"expires_at": None}, OLD_TEXT, LATER, "replaced"),
        ({"expires_at": None}, TEXT, LATER, None),
        ({}, TEXT, LATER, "expired"),
        ({"revoked": True}, TEXT, NOW, "revoked"),
        ({"revoked": True}, TEXT[:-2] + "xx", NOW, "unknown"),
        ({"secrets": (Secret(SECRET.prefix, bytes(32)),)}, TEXT, NOW, "unknown"),
    ],
    ids=range(9),  # names of the texts would be others in each process of the test run
)
def test_why_a_key_is_refused(changes, text, now, reason):
    assert why_refused(record(**changes), text, text[4:20], now) == reason


def test_a_prefix_that_nobody_has_is_unknown():
    assert why_refused(None, TEXT, SECRET.prefix, NOW) == "unknown"
