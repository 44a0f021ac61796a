"""Keys while the database is away: by a snapshot that is signed and of bounded age."""

import json
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.errors import DatabaseTimeout, DatabaseUnavailable, KeyNotFound, KeysUnavailable
from app.keys import keeper as keeper_module
from app.keys.files import locked
from app.keys.grants import Grant
from app.keys.principal import ADMIN, Scope
from app.keys.snapshot import Moment
from app.tenancy import carried
from tests.db_server import random_units
from tests.keys.conftest import AWAY


@pytest.fixture
def made(keys, make_gallery):
    """A key, and what it is."""
    make_gallery("hers", random_units(1, 8))
    info, text_ = keys.service.create("door", Grant(frozenset({Scope.RECOGNIZE}), frozenset({"hers"})), ADMIN)
    return info, text_


@pytest.fixture(params=[{"vector_db_url": AWAY}, {"vector_db_enabled": False}], ids=["away", "switched off"])
def without(request, keys_of):
    """Keys where there is no database."""
    return lambda **changes: keys_of(**request.param, **changes)


def later(monkeypatch, by_s: float) -> None:
    now = Moment.now()
    moved = Moment(now.at_s + by_s, now.up_s + by_s, now.boot_id)
    monkeypatch.setattr(keeper_module.Moment, "now", classmethod(lambda _cls: moved))


def test_without_a_database_a_key_is_known_from_the_snapshot(keys, made, without):
    info, text_ = made
    there, away = keys.whose(text_), without().whose(text_)
    assert away == there
    assert away.id == str(info.id)


def test_its_files_are_for_the_owner_only(keys, made):
    for path in (keys.settings.keys_snapshot_file, keys.settings.keys_snapshot_key_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_the_snapshot_has_not_is_nobodys(keys, made, without):
    assert without().whose(f"fdx_{'0' * 16}_{'A' * 43}") is None
    assert without().whose("no key at all") is None


def test_a_key_revoked_before_the_database_went_stays_revoked(keys, made, without):
    info, text_ = made
    keys.service.revoke(str(info.id))
    assert without().whose(text_) is None


def test_a_key_that_expires_while_the_database_is_away_expires(keys, without, make_gallery, database):
    make_gallery("hers", random_units(1, 8))
    soon = datetime.now(UTC) + timedelta(hours=1)
    grant = Grant(frozenset({Scope.RECOGNIZE}), frozenset({"hers"}), expires_at=soon)
    _, text_ = keys.service.create("door", grant, ADMIN)
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET expires_at = now() + interval '5 seconds'"))
    snapshot = keys.keeper.refresh()
    until = snapshot.keys[0].expires_at
    away = without()
    threading.Event().wait(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 0.01)
    assert away.whose(text_) is None


def test_past_the_bound_nobody_can_say_and_the_admin_key_works(keys, made, without, monkeypatch):
    _, text_ = made
    away = without(key_snapshot_max_age_s=100)
    later(monkeypatch, 50)  # of 100: the clock goes on beside
    assert away.whose(text_) is not None
    later(monkeypatch, 200)
    with pytest.raises(KeysUnavailable):
        away.whose(text_)
    assert away.whose(keys.settings.admin_key_file.read_text().strip()) is ADMIN
    assert away.whose("malformed") is None


def test_a_snapshot_from_the_future_is_not_gone_by(keys, made, without, monkeypatch):
    later(monkeypatch, -7200)
    with pytest.raises(KeysUnavailable):
        without().whose(made[1])


@pytest.mark.parametrize("damage", ["missing", "changed", "another key", "no key"])
def test_a_snapshot_that_is_missing_or_not_ours_is_not_gone_by(keys, made, without, damage):
    path, key_path = keys.settings.keys_snapshot_file, keys.settings.keys_snapshot_key_file
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(path.read_bytes().replace(b"recognize", b"embed"))
    elif damage == "another key":
        key_path.write_bytes(b"0" * 64)
    else:
        key_path.unlink()
    with pytest.raises(KeysUnavailable):
        without().whose(made[1])
    assert without().whose(keys.settings.admin_key_file.read_text().strip()) is ADMIN


def test_what_is_revoked_without_the_database_ends_at_once_and_the_database_is_told(
    keys, made, without, keys_of, database
):
    info, text_ = made
    away = without()
    assert away.keeper.revoke_without_database(info.prefix).id == str(info.id)
    assert away.whose(text_) is None
    assert keys.whose(text_) is None  # the database is back, and has not been told yet
    assert keys.service.list(limit=1, cursor=None).items[0].state == "active"
    keys.keeper.refresh_when_due()
    assert keys.service.list(limit=1, cursor=None).items[0].state == "revoked"
    assert keys.keeper.snapshot.revoked == ()
    assert keys_of().whose(text_) is None
    with database.transaction() as session:
        bodies = session.scalars(text("SELECT body FROM audit_events WHERE body LIKE '%key.revoked%'")).all()
    assert json.loads(bodies[0])["details"]["revoked_by"] == "test"


def test_while_the_database_answers_nobody_reads_the_snapshots_keys(keys, made, keys_of, monkeypatch):
    def unread(*_args):
        raise AssertionError("the keys were read")

    monkeypatch.setattr("app.keys.snapshot_file.read_snapshot", unread)
    fresh = keys_of()
    assert fresh.whose(made[1]) is not None
    fresh.keeper.refresh()


def test_what_may_be_asked_for_is_what_the_snapshot_has_and_without_one_what_looks_like_a_key(keys, made):
    _, text_ = made
    unknown = f"fdx_{'0' * 16}_{'A' * 43}"
    assert [keys.authenticator.is_plausible(each) for each in (text_, unknown, "x")] == [True, False, False]
    keys.settings.keys_snapshot_file.unlink()
    assert [keys.authenticator.is_plausible(each) for each in (text_, unknown, "x")] == [True, True, False]


def test_a_revocation_that_the_database_cannot_be_told_now_holds_up_no_other(keys, made, make_gallery, database):
    theirs = make_gallery("theirs", random_units(1, 8)).domain_id
    other, _ = keys.service.create("gate", Grant(frozenset({Scope.RECOGNIZE}), frozenset({"theirs"})), ADMIN)
    keys.keeper.revoke_without_database(made[0].prefix)
    keys.keeper.revoke_without_database(other.prefix)
    with database.transaction() as session:
        session.execute(text("SELECT 1 FROM audit_chains WHERE domain_id = :id FOR UPDATE"), {"id": theirs})
        with pytest.raises(DatabaseTimeout):
            keys.keeper.refresh()
    assert {key.name: key.state for key in keys.service.list(limit=2, cursor=None).items} == {
        "door": "revoked",
        "gate": "active",
    }
    keys.keeper.refresh()
    assert {key.state for key in keys.service.list(limit=2, cursor=None).items} == {"revoked"}


def test_a_key_that_the_snapshot_has_not_cannot_be_revoked_there(keys, made, without):
    with pytest.raises(KeyNotFound):
        without().keeper.revoke_without_database("nobody")
    keys.settings.keys_snapshot_file.unlink()
    with pytest.raises(KeysUnavailable):
        without().keeper.revoke_without_database(made[0].prefix)


def test_the_operator_may_vouch_for_it_anew(keys, made, without, monkeypatch):
    away = without(key_snapshot_max_age_s=100)
    later(monkeypatch, 200)
    away.keeper.renew_without_database()
    assert away.whose(made[1]) is not None


def test_it_is_refreshed_twice_a_minute_by_whichever_process(keys, made, keys_of, monkeypatch):
    first = keys.keeper.snapshot
    keys_of().keeper.refresh_when_due()
    assert keys.keeper.snapshot == first
    later(monkeypatch, 31)
    keys_of().keeper.refresh_when_due()
    assert keys.keeper.snapshot.taken == Moment.now()


def test_after_a_change_it_is_refreshed_however_young_it_is(keys, made, database, without):
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET domains = '{}'"))
    keys.keeper.refresh_when_due()
    assert without().whose(made[1]).reach.names == {"hers"}
    keys.keeper.expect_change()
    keys.keeper.refresh_when_due()
    assert without().whose(made[1]).reach.names == frozenset()


def test_what_was_changed_elsewhere_is_in_the_next_one(keys, made, database, monkeypatch):
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET revoked_at = now()"))
    assert keys.keeper.snapshot.keys != ()
    keys.keeper.refresh()
    assert keys.keeper.snapshot.keys == ()


def test_a_revocation_that_cannot_be_followed_by_a_refresh_takes_the_key_out_of_the_snapshot(
    keys, made, without, monkeypatch
):
    def away(*_args):
        raise DatabaseUnavailable("gone just now")

    monkeypatch.setattr(keys.keeper, "refresh", away)
    keys.service.revoke(str(made[0].id))
    assert without().whose(made[1]) is None


def test_a_refresh_under_way_does_not_bring_back_what_is_revoked_meanwhile(keys, made, keys_of, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()
    slow = keys_of().keeper
    usable = keeper_module.usable_records

    def wait_once(session):
        found = usable(session)
        if not asked.is_set():
            asked.set()
            go_on.wait(60)
        return found

    monkeypatch.setattr(keeper_module, "usable_records", wait_once)
    refreshing = threading.Thread(target=slow.refresh)
    revoking = threading.Thread(target=carried(lambda: keys.service.revoke(made[0].prefix)))
    refreshing.start()
    assert asked.wait(60)
    revoking.start()
    while keys_of().whose(made[1]) is not None:  # until it is revoked; its own refresh waits for the other
        assert revoking.is_alive()
    go_on.set()
    refreshing.join()
    revoking.join()
    assert keys.keeper.snapshot.keys == ()


def test_a_change_is_made_though_the_snapshot_cannot_be_written(keys, made, keys_of, monkeypatch):
    def full(*_args):
        raise OSError("no space left")

    monkeypatch.setattr("app.keys.snapshot_file.replace_with", full)
    info, text_ = keys.service.create("another", made[0].grant, ADMIN)
    keys.keeper.refresh_when_due()
    assert keys.whose(text_).id == str(info.id)
    assert keys.service.revoke(info.prefix).state == "revoked"
    assert keys_of().whose(text_) is None


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_signing_key_that_is_lost_is_made_anew(keys, made, without, content):
    keys.settings.keys_snapshot_key_file.unlink()
    if content is not None:
        keys.settings.keys_snapshot_key_file.write_bytes(content)
    keys.keeper.refresh()
    assert without().whose(made[1]) is not None


def test_refreshing_when_another_process_does_is_left_to_it(keys, made, keys_of, monkeypatch):
    later(monkeypatch, 31)
    before = keys.keeper.snapshot
    with locked(keys.settings.keys_snapshot_file.with_name(".keys.snapshot.lock"), 1.0) as free:
        assert free
        keys_of().keeper.refresh_when_due()
    assert keys.keeper.snapshot == before


def test_a_database_without_tables_counts_as_away(keys, made, database):
    with database.transaction() as session:
        session.execute(text("RESET ROLE"))
        session.execute(text("ALTER TABLE api_keys RENAME TO api_keys_later"))
    try:
        assert keys.whose(made[1]) is not None
    finally:
        with database.transaction() as session:
            session.execute(text("RESET ROLE"))
            session.execute(text("ALTER TABLE api_keys_later RENAME TO api_keys"))
