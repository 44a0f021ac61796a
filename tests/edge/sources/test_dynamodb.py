"""Members from DynamoDB: moto's, over real HTTP, with small pages and throttling."""

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from app.edge.errors import ConfigError, MalformedMembers, SourceRefused, SourceUnavailable
from app.edge.gallery import Changes, Gallery
from app.edge.members import MemberTemplates
from app.edge.sources import Source
from app.edge.sources.dynamodb import DynamoSettings, DynamoSource
from app.edge.sources.dynamodb_items import MemberTable, ReservationTable
from scripts.benchmarks.dynamo_server import CREDENTIALS, REGION, DynamoServer, no_fault
from tests.edge.making import CONTRACT, DIMENSION, vector

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoServer]:
    with DynamoServer() as running:
        yield running


@pytest.fixture
def tables(server: DynamoServer, monkeypatch: pytest.MonkeyPatch) -> DynamoServer:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server.fault, server.queries, server.most_at_once, server.latency_s = no_fault, 0, 0, 0.0
    server.empty()
    server.make_tables()
    return server


def source(server: DynamoServer, **changed: Any) -> DynamoSource:
    settings = DynamoSettings(region=REGION, endpoint=server.endpoint, threads=8, attempts=4)
    return DynamoSource(replace(settings, **changed), CONTRACT, DIMENSION, now=NOW.timestamp)


def test_answers_say_what_time_it_is(tables: DynamoServer) -> None:
    heard = []
    began = time.time()
    settings = DynamoSettings(region=REGION, endpoint=tables.endpoint)
    DynamoSource(settings, CONTRACT, DIMENSION, heard=lambda *told: heard.append(told)).fetch(None)
    assert heard
    assert all(began - 1 <= date <= time.time() and asked_s <= came_s for date, asked_s, came_s in heard)


def reservation(code: str, begins: object = NOW - HOUR, ends: object = NOW + HOUR, **more: Any) -> dict[str, Any]:
    return {
        "reservationCode": {"S": code},
        "status": {"S": "checked_in"},
        "checkIn": when(begins),
        "checkOut": when(ends),
        "locks": {"SS": [f"door-{code}", "pool"]},
    } | more


def when(moment: object) -> dict[str, str]:
    match moment:
        case datetime():
            return {"S": moment.isoformat()}
        case int() | float():
            return {"N": str(moment)}
        case _:
            return {"S": str(moment)}


def person(code: str, number: int, seed: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "reservationCode": {"S": code},
        "memberNo": {"N": str(number)},
        "name": {"S": f"Guest {number} of {code}"},
        "embedding": {"B": vector(seed).astype("<f4").tobytes()},
    } | more


def by_key(given: tuple[MemberTemplates, ...]) -> dict[str, MemberTemplates]:
    assert len({one.member.key for one in given}) == len(given)
    return {one.member.key: one for one in given}


def test_everybody_comes_in_spite_of_small_pages_and_throttling(tables: DynamoServer) -> None:
    """300 current reservations with 1,500 members, between 300 that are over or far away."""
    for number in range(300):
        tables.fill("reservations", [reservation(f"R{number}", status={"S": ("confirmed", "checked_in")[number % 2]})])
        tables.fill("reservations", [reservation(f"old{number}", NOW - 90 * HOUR, NOW - 80 * HOUR)])
        tables.fill("members", (person(f"R{number}", member, number * 10 + member) for member in range(5)))
        tables.fill("members", [person(f"old{number}", 1)])
    choice = random.Random(5)
    throttled = {number for number in range(5_000) if choice.random() < 0.1}
    tables.fault = lambda number, body: "ProvisionedThroughputExceededException" if number in throttled else None
    with capture_logs() as logs:
        delta = source(tables, page_size=3, attempts=8).fetch(None)
    assert (delta.full, delta.version, delta.removed, delta.contract) == (True, "", (), CONTRACT)
    given = by_key(delta.upserts)
    assert set(given) == {f"R{number}-{member}" for number in range(300) for member in range(5)}
    for number, member in ((0, 0), (17, 3), (299, 4)):
        one = given[f"R{number}-{member}"]
        assert np.array_equal(one.embeddings, [vector(number * 10 + member).astype("f4")])
        assert one.member.locks == {f"door-R{number}", "pool"}
        assert (one.member.valid_from, one.member.valid_until) == (
            (NOW - HOUR).timestamp(),
            (NOW + HOUR).timestamp(),
        )
    # Two pages of members for each, and 50 or 51 for each state: what is over for good was not asked for.
    answered = tables.queries - len([number for number in throttled if number <= tables.queries])
    assert logs[-1]["event"] == "Fetched 1500 members of 300 reservations"
    assert logs[-1]["pages"] == answered <= 300 * 2 + 2 * 51
    gallery = Gallery(CONTRACT, DIMENSION)
    assert gallery.apply(delta).added == 1_500


def test_the_interface_is_that_of_all_sources(tables: DynamoServer) -> None:
    any_source: Source = source(tables)
    tables.fill("reservations", [reservation("A")])
    tables.fill("members", [person("A", 1)])
    for since in (None, "", "17"):
        assert any_source.fetch(since).full
    assert any_source.name == "dynamodb"


SPANS: dict[str, tuple[object, object, bool]] = {
    "now": (NOW - HOUR, NOW + HOUR, True),
    "just": (NOW - HOUR, NOW + timedelta(seconds=1), True),
    "just over": (NOW - HOUR, NOW, False),
    "begins soon": (NOW + 23 * HOUR, NOW + 30 * HOUR, True),
    "begins later": (NOW + 25 * HOUR, NOW + 30 * HOUR, False),
    "a date alone is the whole day": ("2026-11-20", "2026-11-20", True),
    "the day before": ("2026-11-19", "2026-11-19", False),
    "ends in half an hour": ("2026-11-20T01:00:00-11:00", "2026-11-20T01:30:00-11:00", True),
    "ended half an hour ago": ("2026-11-20T01:00:00+14:00", "2026-11-21T01:30:00+14:00", False),
    "fractions": ("2026-11-20T12:30:00Z", "2026-11-21T02:00:00.250Z", True),
    "a space": ("2026-11-20 11:59:00", "2026-11-20 12:01:00", True),
}


def test_only_reservations_that_are_current_or_begin_soon_count(tables: DynamoServer) -> None:
    for code, (begins, ends, _) in SPANS.items():
        tables.fill("reservations", [reservation(code, begins, ends)])
        tables.fill("members", [person(code, 1)])
    expected = {f"{code}-1" for code, (*_, is_member) in SPANS.items() if is_member}
    assert set(by_key(source(tables).fetch(None).upserts)) == expected


def test_times_without_a_zone_are_in_that_of_the_settings(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A", "2026-11-20T12:30:00", "2026-11-21")])
    tables.fill("members", [person("A", 1)])
    (one,) = source(tables, reservations=ReservationTable(time_zone="Europe/Ljubljana")).fetch(None).upserts
    assert one.member.valid_from == datetime(2026, 11, 20, 11, 30, tzinfo=UTC).timestamp()
    assert one.member.valid_until == datetime(2026, 11, 21, 23, tzinfo=UTC).timestamp()
    with pytest.raises(ConfigError, match="Mars"):
        source(tables, reservations=ReservationTable(time_zone="Mars/Olympus"))


@pytest.mark.parametrize(("written", "factor"), [("seconds", 1), ("milliseconds", 1_000)])
def test_tables_may_count_since_1970(tables: DynamoServer, written: Any, factor: int) -> None:
    tables.empty()
    tables.make_tables(dates="N")
    spans = {"current": (-1, 1), "over": (-2, 0), "far": (25, 26), "soon": (23, 26)}
    for code, (begins, ends) in spans.items():
        times = [int((NOW + hours * HOUR).timestamp()) * factor for hours in (begins, ends)]
        tables.fill("reservations", [reservation(code, *times)])
        tables.fill("members", [person(code, 1)])
    given = source(tables, reservations=ReservationTable(written=written)).fetch(None).upserts
    assert set(by_key(given)) == {"current-1", "soon-1"}
    assert by_key(given)["current-1"].member.valid_until == (NOW + HOUR).timestamp()


def test_who_has_another_state_is_not_read(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A"), reservation("B", status={"S": "cancelled"})])
    tables.fill("members", [person("A", 1), person("B", 1)])
    assert set(by_key(source(tables).fetch(None).upserts)) == {"A-1"}


def test_the_next_fetch_brings_who_came_and_takes_who_left(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A"), reservation("B"), reservation("C")])
    tables.fill("members", [person(code, 1, seed) for seed, code in enumerate("ABCD")])
    members, gallery = source(tables), Gallery(CONTRACT, DIMENSION)
    gallery.apply(members.fetch(None))
    tables.fill("reservations", [reservation("A", status={"S": "checked_out"}), reservation("D")])
    tables.fill("reservations", [reservation("B", ends=NOW + 30 * HOUR)])
    assert gallery.apply(members.fetch("")) == Changes(added=1, removed=1, updated=1)
    later = (NOW + 2 * HOUR).timestamp()
    assert [match.member.key for match in gallery.snapshot.match(vector(1), now=later)] == ["B-1"]
    assert gallery.apply(members.fetch("")) == Changes()


def numbers(seed: int, count: int = DIMENSION) -> dict[str, Any]:
    return {"L": [{"N": str(value)} for value in vector(seed, count).tolist()]}


def test_embeddings_are_bytes_or_numbers_and_there_may_be_several(tables: DynamoServer) -> None:
    first, second = (vector(seed).astype("<f4").tobytes() for seed in (1, 2))
    tables.fill("reservations", [reservation("A")])
    tables.fill(
        "members",
        [
            person("A", 1),
            person("A", 2, embedding=numbers(1)),
            person("A", 3, embedding={"L": [{"B": first}, {"B": second}]}),
            person("A", 4, embedding={"L": [numbers(1), numbers(2)]}),
        ],
    )
    given = by_key(source(tables).fetch(None).upserts)
    one, two = (vector(seed).astype("f4") for seed in (1, 2))
    assert np.array_equal(given["A-1"].embeddings, [one])
    assert np.array_equal(given["A-2"].embeddings, [one])
    for several in ("A-3", "A-4"):
        assert np.array_equal(given[several].embeddings, [one, two])


BAD_MEMBERS = {
    "dimension": {"embedding": {"B": b"\0" * 4 * (DIMENSION + 1)}},
    "not whole": {"embedding": {"B": b"\1" * (4 * DIMENSION - 1)}},
    "short list": {"embedding": numbers(1, DIMENSION - 1)},
    "no embedding": {"embedding": {"NULL": True}},
    "empty": {"embedding": {"L": []}},
    "words": {"embedding": {"L": [{"N": "1"}, {"S": "two"}]}},
    "NaN": {"embedding": {"B": np.full(DIMENSION, np.nan, "<f4").tobytes()}},
    "too large": {"embedding": {"L": [{"N": "1e100"}] * DIMENSION}},
    "zero": {"embedding": {"B": bytes(4 * DIMENSION)}},
    "one of two": {"embedding": {"L": [numbers(1), {"B": bytes(4 * DIMENSION)}]}},
    "name": {"name": {"N": "5"}},
    "locks": {"locks": {"N": "5"}},
    "lock": {"locks": {"L": [{"N": "5"}]}},
    "another model": {"embeddingContract": {"S": "other:16:0000000000000000"}},
    "hyphen": {"memberNo": {"N": "-3"}},
}


def test_one_bad_member_costs_nobody_else_and_is_counted(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A")])
    tables.fill("members", [person("A", 900), person("A", 901, embeddingContract={"S": CONTRACT})])
    tables.fill("members", (person("A", number, **bad) for number, bad in enumerate(BAD_MEMBERS.values())))
    with capture_logs() as logs:
        delta = source(tables).fetch(None)
    assert set(by_key(delta.upserts)) == {"A-900", "A-901"}
    assert sum(logs[-1]["skipped"].values()) == len(BAD_MEMBERS)
    assert 0 < len([entry for entry in logs if entry["log_level"] == "warning"]) < len(BAD_MEMBERS)
    assert Gallery(CONTRACT, DIMENSION).apply(delta).added == 2


BAD_RESERVATIONS = {
    "no check-in": {"checkIn": {"NULL": True}},
    "words": {"checkIn": {"S": "2026-11-20, after lunch"}},
    "huge": {"checkIn": {"N": "9e125"}},
    "backwards": {"checkIn": {"S": "2026-11-20T13:30:00Z"}},
    "no text": {"checkOut": {"S": "2026-11-31"}},
    "locks": {"locks": {"BOOL": True}},
}


def test_one_bad_reservation_costs_nobody_else_and_is_counted(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A"), reservation("B", locks={"NULL": True})])
    tables.fill("reservations", (reservation(f"bad {name}", **bad) for name, bad in BAD_RESERVATIONS.items()))
    for code in ("A", "B", *(f"bad {name}" for name in BAD_RESERVATIONS)):
        tables.fill("members", [person(code, 1)])
    with capture_logs() as logs:
        given = by_key(source(tables).fetch(None).upserts)
    assert set(given) == {"A-1", "B-1"}
    assert given["B-1"].member.locks == frozenset()
    assert sum(logs[-1]["skipped"].values()) == len(BAD_RESERVATIONS)


def test_where_nothing_can_be_used_the_gallery_is_not_emptied(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A")])
    tables.fill("members", [person("A", 1)])
    with pytest.raises(MalformedMembers, match="face"):
        source(tables, members=MemberTable(embedding="face")).fetch(None)
    with pytest.raises(MalformedMembers, match="arrival"):
        source(tables, reservations=ReservationTable(check_in="arrival")).fetch(None)


def test_a_member_may_have_locks_of_their_own(tables: DynamoServer) -> None:
    tables.fill("reservations", [reservation("A")])
    tables.fill("members", [person("A", 1), person("A", 2, locks={"L": [{"S": "door-A"}]})])
    tables.fill("members", [person("A", 3, locks={"S": ""})])
    given = by_key(source(tables).fetch(None).upserts)
    assert [given[f"A-{number}"].member.locks for number in (1, 2, 3)] == [{"door-A", "pool"}, {"door-A"}, set()]


def test_a_reservation_that_stands_in_two_places_allows_what_both_allow(tables: DynamoServer) -> None:
    """As one may while it is changed: the index has it where it was and where it is."""
    same = {"booking": {"S": "A"}}
    tables.fill("reservations", [reservation("x", NOW - 2 * HOUR, NOW + HOUR, locks={"SS": ["one", "two"]}, **same)])
    tables.fill("reservations", [reservation("y", NOW - HOUR, NOW + 9 * HOUR, locks={"SS": ["two", "three"]}, **same)])
    tables.fill("members", [person("A", 1)])
    (one,) = source(tables, reservations=ReservationTable(code="booking")).fetch(None).upserts
    span = (NOW - HOUR).timestamp(), (NOW + HOUR).timestamp()
    assert (one.member.valid_from, one.member.valid_until, one.member.locks) == (*span, {"two"})


def test_a_page_that_cannot_be_read_fails_the_whole(tables: DynamoServer) -> None:
    tables.fill("reservations", (reservation(f"R{number}") for number in range(20)))
    tables.fill("members", (person(f"R{number}", 1) for number in range(20)))

    def fault(number: int, body: str) -> str | None:
        return "ProvisionedThroughputExceededException" if '"R7"' in body else None

    tables.fault = fault
    with pytest.raises(SourceUnavailable, match="ProvisionedThroughputExceededException"):
        source(tables, threads=2).fetch(None)
    tables.fault = no_fault
    assert len(source(tables).fetch(None).upserts) == 20


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException", "ValidationException"]
)
def test_what_waiting_does_not_mend_is_refused_at_once(tables: DynamoServer, code: str) -> None:
    tables.fault = lambda number, body: code
    with pytest.raises(SourceRefused, match=code):
        source(tables, reservations=ReservationTable(partitions=("confirmed",))).fetch(None)
    assert tables.queries == 1


def test_wrong_names_and_addresses_are_told_apart(tables: DynamoServer) -> None:
    with pytest.raises(SourceRefused, match="ResourceNotFoundException"):
        source(tables, reservations=ReservationTable(table="nowhere")).fetch(None)
    with pytest.raises(SourceRefused):
        source(tables, reservations=ReservationTable(index="nowhere")).fetch(None)
    with pytest.raises(SourceUnavailable, match="EndpointConnectionError"):
        source(tables, endpoint="http://127.0.0.1:1", attempts=1).fetch(None)
    with pytest.raises(SourceRefused):
        source(tables, endpoint="no address").fetch(None)


def test_without_credentials_it_says_so(tables: DynamoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    for name, value in (("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nowhere")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceRefused, match="NoCredentialsError"):
        source(tables).fetch(None)


def test_members_are_asked_for_side_by_side_and_not_more_than_so_many(tables: DynamoServer) -> None:
    tables.fill("reservations", (reservation(f"R{number}") for number in range(40)))
    tables.fill("members", (person(f"R{number}", 1) for number in range(40)))
    tables.latency_s = 0.02
    assert len(source(tables, threads=4).fetch(None).upserts) == 40
    assert 2 <= tables.most_at_once <= 4


def test_it_ends_when_its_time_is_over(tables: DynamoServer) -> None:
    tables.fill("reservations", (reservation(f"R{number}") for number in range(50)))
    with pytest.raises(SourceUnavailable, match="longer than"):
        source(tables, timeout_s=0.001).fetch(None)


def test_credentials_never_reach_the_log(tables: DynamoServer, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    tables.fill("reservations", [reservation("A")])
    with caplog.at_level(logging.DEBUG), capture_logs() as logs:
        source(tables).fetch(None)
        tables.fault = lambda number, body: "InvalidSignatureException"
        with pytest.raises(SourceRefused) as refused:
            source(tables).fetch(None)
    told = f"{caplog.text} {logs} {refused.value} {refused.value.__cause__} {source(tables).settings}"
    for value in ("a-secret", "a-token", "AWS4-HMAC"):
        assert value not in told
