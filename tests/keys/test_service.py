"""Keys in a real database: made, used, given away, ended."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.db.domains import drop_domain
from app.errors import DomainNotFound, InvalidName, InvalidRequest, KeyEnded, KeyNotAllowed, KeyNotFound, TooManyKeys
from app.keys import rows
from app.keys.grants import Grant
from app.keys.principal import ADMIN, Principal, Scope
from app.tenancy import acting, carried
from tests.db_server import random_units
from tests.service.running import eventually

DOOR = frozenset({Scope.RECOGNIZE})


def grant(*domains: str, scopes=DOOR, **changes) -> Grant:
    return Grant(scopes=frozenset(scopes), domains=frozenset(domains), **changes)


@pytest.fixture
def two(make_gallery):
    """Two domains; their numbers."""
    return [make_gallery(name, random_units(1, 8)).domain_id for name in ("hers", "theirs")]


def tenant(keys, *scopes: Scope) -> Principal:
    _, text_ = keys.service.create("tenant", grant("hers", scopes=scopes or (Scope.ADMIN, Scope.RECOGNIZE)), ADMIN)
    return keys.whose(text_)


def test_a_key_is_whose_it_says_it_is(keys, two):
    info, text_ = keys.service.create("door", grant("hers", rate_per_minute=7), ADMIN)
    principal = keys.whose(text_)
    assert principal.id == str(info.id)
    assert principal.scopes == DOOR
    assert (principal.reach.names, principal.reach.ids) == ({"hers"}, {two[0]})
    assert not principal.reach.everything
    assert principal.rate_per_minute == 7
    assert info.created_by == "test"


def test_a_key_for_every_domain_reaches_those_to_come(keys):
    _, text_ = keys.service.create("all", grant(every_domain=True), ADMIN)
    assert keys.whose(text_).reach.everything


def test_a_key_with_the_usual_rate_makes_none_with_more(keys_of, two):
    keys = keys_of(rate_limit_per_minute=60)
    maker = tenant(keys)
    with acting(maker.reach):
        keys.service.create("as much", grant("hers", rate_per_minute=60), maker)
        with pytest.raises(KeyNotAllowed):
            keys.service.create("more", grant("hers", rate_per_minute=61), maker)


def test_a_domain_has_so_many_keys_and_no_more_whoever_made_them(keys, two, monkeypatch):
    monkeypatch.setattr(rows, "MAX_KEYS_OF_A_DOMAIN", 3)
    maker = tenant(keys)
    both, _ = keys.service.create("both", grant("hers", "theirs"), ADMIN)
    with acting(maker.reach):
        keys.service.create("third", grant("hers"), maker)
        with pytest.raises(TooManyKeys):
            keys.service.create("fourth", grant("hers"), maker)
        assert len(keys.service.list(limit=9, cursor=None).items) == 2
    keys.service.create("another domain's", grant("theirs"), ADMIN)
    keys.service.revoke(str(both.id))
    with acting(maker.reach):
        keys.service.create("now there is room", grant("hers"), maker)


def test_the_installation_has_so_many_keys_and_no_more(keys, two, monkeypatch):
    monkeypatch.setattr(rows, "MAX_KEYS", 2)
    keys.service.create("first", grant("hers"), ADMIN)
    keys.service.create("second", grant(every_domain=True), ADMIN)
    with pytest.raises(TooManyKeys):
        keys.service.create("third", grant("theirs"), ADMIN)


def test_the_database_has_no_text_of_a_key(keys, two, database):
    _, text_ = keys.service.create("door", grant("hers"), ADMIN)
    with database.transaction() as session:
        rows = str(session.execute(text("SELECT api_keys.*, encode(digest, 'escape') FROM api_keys")).all())
        events = str(session.execute(text("SELECT body FROM audit_events")).all())
    secret = text_.split("_", 2)[2]
    assert secret not in rows + events
    assert secret not in keys.settings.keys_snapshot_file.read_text()


@pytest.mark.parametrize("broken", ["", "fdx_", "x", "fdx_" + "0" * 16 + "_" + "A" * 43, "ž" * 70])
def test_what_is_no_key_is_nobodys(keys, broken):
    assert keys.whose(broken) is None


def test_a_prefix_alone_does_not_open_anything(keys, two):
    info, _ = keys.service.create("door", grant("hers"), ADMIN)
    assert keys.whose(f"fdx_{info.prefix}_{'A' * 43}") is None


def test_a_revoked_key_ends_at_once_and_stays_so(keys, keys_of, two):
    info, text_ = keys.service.create("door", grant("hers"), ADMIN)
    elsewhere = keys_of()
    assert elsewhere.whose(text_) is not None
    revoked = keys.service.revoke(info.prefix)
    assert revoked.state == "revoked"
    assert elsewhere.whose(text_) is None
    assert keys.service.revoke(str(info.id)).revoked_at == revoked.revoked_at
    with pytest.raises(KeyEnded):
        keys.service.rotate(str(info.id), ADMIN)


def test_an_expired_key_ends_by_itself(keys, two, database):
    info, text_ = keys.service.create("door", grant("hers", expires_at=datetime.now(UTC) + timedelta(hours=1)), ADMIN)
    assert keys.whose(text_) is not None
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 second'"))
    assert keys.whose(text_) is None
    with pytest.raises(KeyEnded):
        keys.service.rotate(str(info.id), ADMIN)
    assert keys.service.list(limit=10, cursor=None).items[0].state == "expired"


def test_a_rotated_key_has_another_text_and_the_same_id(keys, two):
    info, old = keys.service.create("door", grant("hers"), ADMIN)
    after, new = keys.service.rotate(info.prefix, ADMIN)
    assert (after.id, after.name) == (info.id, info.name)
    assert keys.whose(old) is None
    assert keys.whose(new).id == str(info.id)


def test_within_the_grace_both_texts_are_good_and_an_older_one_is_not(keys, two, database):
    info, first = keys.service.create("door", grant("hers"), ADMIN)
    _, second = keys.service.rotate(str(info.id), ADMIN, timedelta(hours=1))
    assert keys.whose(first) == keys.whose(second)
    _, third = keys.service.rotate(str(info.id), ADMIN, timedelta(hours=1))
    assert keys.whose(first) is None
    assert keys.whose(second) == keys.whose(third) is not None
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET previous_until = now()"))
    assert keys.whose(second) is None
    assert keys.whose(third) is not None


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=31)])
def test_a_grace_is_bounded(keys, two, grace):
    info, _ = keys.service.create("door", grant("hers"), ADMIN)
    with pytest.raises(InvalidRequest):
        keys.service.rotate(str(info.id), ADMIN, grace)


def test_keys_are_only_for_domains_that_are_there(keys, two):
    with pytest.raises(DomainNotFound):
        keys.service.create("door", grant("nowhere"), ADMIN)
    (keys.settings.pkl_dir / "only a dataset").mkdir(parents=True)
    _, text_ = keys.service.create("door", grant("only a dataset"), ADMIN)
    assert keys.whose(text_).reach.names == {"only a dataset"}
    assert keys.whose(text_).reach.ids == frozenset()


def test_a_domain_may_be_named_by_its_id(keys, two, database):
    with database.transaction() as session:
        uid = session.scalar(text("SELECT uid FROM domains WHERE name = 'hers'"))
    info, _ = keys.service.create("door", grant(str(uid)), ADMIN)
    assert info.grant.domains == {"hers"}


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b"])
def test_a_name_that_cannot_be_kept_is_refused(keys, two, name):
    with pytest.raises(InvalidName):
        keys.service.create(name, grant("hers"), ADMIN)


def test_a_tenant_manages_only_keys_within_its_own_domains(keys, two):
    others = [
        keys.service.create("theirs", grant("theirs"), ADMIN)[0],
        keys.service.create("both", grant("hers", "theirs"), ADMIN)[0],
        keys.service.create("all", grant(every_domain=True), ADMIN)[0],
    ]
    maker = tenant(keys)
    with acting(maker.reach):
        mine, text_ = keys.service.create("mine", grant("hers"), maker)
        assert mine.created_by == maker.id
        assert {info.name for info in keys.service.list(limit=10, cursor=None).items} == {"tenant", "mine"}
        for other in others:
            for which in (str(other.id), other.prefix):
                with pytest.raises(KeyNotFound, match=which):
                    keys.service.revoke(which)
                with pytest.raises(KeyNotFound, match=which):
                    keys.service.rotate(which, maker)
        keys.service.revoke(str(mine.id))
    assert keys.whose(text_) is None
    assert {info.state for info in keys.service.list(limit=10, cursor=None).items if info.name != "mine"} == {"active"}


def test_a_tenant_gives_nothing_that_it_has_not_and_learns_nothing_of_others(keys, two):
    maker = tenant(keys)
    richer, _ = keys.service.create("richer", grant("hers", scopes={Scope.EMBED}), ADMIN)
    (keys.settings.pkl_dir / "a dataset").mkdir(parents=True)
    with acting(maker.reach):
        with pytest.raises(KeyNotAllowed):
            keys.service.create("x", grant("hers", scopes={Scope.EMBED}), maker)
        with pytest.raises(KeyNotAllowed):
            keys.service.create("x", grant(every_domain=True), maker)
        with pytest.raises(KeyNotAllowed):
            keys.service.rotate(str(richer.id), maker)
        for foreign in ("theirs", "a dataset", "nowhere"):
            with pytest.raises(DomainNotFound, match=f"There is no domain named '{foreign}'"):
                keys.service.create("x", grant("hers", foreign), maker)
    assert len(keys.service.list(limit=10, cursor=None).items) == 2


def test_a_tenant_whose_domain_is_only_a_dataset_makes_no_keys(keys):
    (keys.settings.pkl_dir / "hers").mkdir(parents=True)
    maker = tenant(keys)
    with acting(maker.reach), pytest.raises(KeyNotAllowed, match="only a dataset"):
        keys.service.create("x", grant("hers"), maker)


def test_a_deleted_domains_name_opens_nothing_for_its_next_owner(keys, two, database, make_gallery):
    _, text_ = keys.service.create("door", grant("hers"), ADMIN)
    with database.transaction() as session:
        drop_domain(session, two[0])
    make_gallery("hers", random_units(1, 8))
    assert keys.whose(text_).reach.names == frozenset()


def test_a_key_made_while_its_domain_is_deleted_is_not_made(keys, two, database):
    failed = []

    def create() -> None:
        try:
            keys.service.create("late", grant("hers"), ADMIN)
        except DomainNotFound as error:
            failed.append(error)

    with database.transaction() as session:
        drop_domain(session, two[0])
        creating = threading.Thread(target=carried(create))
        creating.start()
        with database.maintenance() as watching:  # the owner sees what its other connections wait for
            waiting = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%domains%'"
            )
            eventually(lambda: watching.scalar(waiting))
        assert creating.is_alive()
    creating.join()
    assert len(failed) == 1
    assert keys.service.list(limit=10, cursor=None).items == []


def test_keys_come_in_pages(keys, two):
    made = [str(keys.service.create(f"key {n}", grant("hers"), ADMIN)[0].id) for n in range(5)]
    seen, cursor = [], None
    while True:
        page = keys.service.list(limit=2, cursor=cursor)
        seen += [str(info.id) for info in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == made
    with pytest.raises(InvalidRequest):
        keys.service.list(limit=2, cursor="WyJhIiwiYiJd")


def test_each_change_leaves_an_event_in_the_chain_of_each_domain(keys, two, database):
    info, _ = keys.service.create("door", grant("hers", "theirs"), ADMIN)
    keys.service.rotate(str(info.id), ADMIN)
    keys.service.revoke(str(info.id))
    keys.service.revoke(str(info.id))
    with database.transaction() as session:
        found = session.execute(
            text(
                "SELECT domain_id, body::json->>'action' FROM audit_events WHERE body LIKE '%key.%' ORDER BY domain_id, seq"
            )
        ).all()
    actions = ["key.created", "key.rotated", "key.revoked"]
    assert [tuple(row) for row in found] == [(number, action) for number in sorted(two) for action in actions]
