"""What somebody who follows a gallery gets to know, on the real database."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import text

from app.db import migrate
from app.db.domains import create_domain, drop_domain, find_domain, lock_domain
from app.db.models import FaceEmbedding, Person
from app.db.persons import ensure_persons
from app.db.session import Database
from app.db.templates import copy_templates, delete_person, delete_template, insert_templates, move_templates
from app.enrolment.persons import PersonChange, PersonDetails, PersonService
from app.errors import DomainNotFound, InvalidRequest
from app.gallery_feed.position import Position
from app.gallery_feed.service import MAX_LOCKS, GalleryFeed, locks_of
from app.gallery_pages import Header, decode
from app.tenancy import Reach, acting, carried
from tests.db_server import Maker, columns_of, contract, random_units, template
from tests.gallery_feed.following import Follower, everything

KEEP_S = 3600.0


@pytest.fixture
def feed(database: Database) -> GalleryFeed:
    return GalleryFeed(database, KEEP_S)


def person_id(database: Database, label: str) -> UUID:
    with database.transaction() as session:
        return session.execute(text("SELECT id FROM persons WHERE label = :label"), {"label": label}).scalar_one()


def version_of(database: Database) -> int:
    with database.transaction() as session:
        return session.scalar(text("SELECT gallery_version FROM domains"))


def test_everything_comes_in_pages_that_are_alike_whatever_their_size(feed: GalleryFeed, make_gallery: Maker) -> None:
    vectors = random_units(9, 8)
    make_gallery("people", vectors, owners=[0, 0, 1, 2, 2, 2, 3, 4, 5])
    whole = Follower(feed, "people").sync()
    assert [header.full for header in whole.headers] == [True]
    assert whole.names == {f"Person {n}" for n in range(6)}
    sent = np.concatenate([np.frombuffer(rows, np.float32).reshape(-1, 8) for _, rows in whole.members.values()])
    assert {row.tobytes() for row in sent} == {row.tobytes() for row in vectors}
    paged = Follower(feed, "people", limit=2).sync()
    assert [header.full for header in paged.headers] == [True, False, False]
    assert (paged.members, paged.version) == (whole.members, whole.version)


def test_a_page_ends_where_its_templates_are_too_many(
    feed: GalleryFeed, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.gallery_feed.service._PAGE_BYTES", 3 * 4 * 8)
    make_gallery("people", random_units(9, 8), owners=[0, 0, 1, 2, 2, 2, 2, 3, 4])
    follower = Follower(feed, "people").sync()
    assert all(sum(m.templates for m in header.members) <= 3 or len(header.members) == 1 for header in follower.headers)
    assert len(follower.headers) > 2
    assert len(follower.members) == 5


def test_nothing_has_changed(feed: GalleryFeed, make_gallery: Maker) -> None:
    make_gallery("people", random_units(2, 8))
    follower = Follower(feed, "people").sync()
    before = follower.version
    follower.sync()
    assert (follower.last.members, follower.last.removed, follower.last.full) == ((), (), False)
    assert follower.version == before
    seen: list[str] = []
    etag = feed.page("people", before, 10, lambda given: seen.append(given) is not None).etag
    assert seen == [etag]
    assert feed.page("people", before, 10, {etag}.__contains__).body is None


def test_whatever_is_written_is_told_and_nothing_else(
    feed: GalleryFeed, database: Database, make_gallery: Maker
) -> None:
    gallery = make_gallery("people", random_units(4, 8), owners=[0, 1, 1, 2])
    domain_id = gallery.domain_id
    follower = Follower(feed, "people").sync()
    first, second, third = (person_id(database, f"p{n}") for n in range(3))
    persons = PersonService(database)

    def told() -> tuple[set[str], set[str]]:
        follower.sync()
        assert follower.members == everything(feed, "people")
        assert not follower.last.full
        return {member.key for member in follower.last.members}, set(follower.last.removed)

    persons.create("people", "new", None, PersonDetails(metadata={"locks": ["DC001"]}))
    new = person_id(database, "new")
    assert told() == (set(), set())  # nobody who can be recognised
    with database.transaction() as session:
        insert_templates(session, domain_id, [template(new, random_units(1, 8, seed=7)[0])])
    assert told() == ({str(new)}, set())
    with database.transaction() as session:
        face = session.execute(text("SELECT id FROM face_embeddings WHERE person_id = :id LIMIT 1"), {"id": second})
        assert delete_template(session, domain_id, second, face.scalar_one())
    assert told() == ({str(second)}, set())
    persons.update("people", "p0", PersonChange(display_name="Ana"))
    assert told() == ({str(first)}, set())
    persons.update("people", "p0", PersonChange(valid_until=datetime(2030, 1, 1, tzinfo=UTC)))
    persons.update("people", "p2", PersonChange(metadata={"locks": ["DC006", "DC001", "DC006"]}))
    assert told() == ({str(first), str(third)}, set())
    assert follower.members[str(first)][0].valid_until == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert follower.members[str(third)][0].locks == ("DC001", "DC006")
    for change in (PersonChange(external_id="R-1"), PersonChange(metadata={"locks": ["DC001", "DC006"], "of": "x"})):
        persons.update("people", "p2", change)
    assert told()[0] <= {str(third)}
    persons.update("people", "p2", PersonChange(external_id="R-2"))
    assert told() == (set(), set())  # what no copy of the gallery has
    with database.transaction() as session:
        move_templates(session, domain_id, second, first)
    assert told() == ({str(first)}, {str(second)})  # they are there still, without a face
    with database.transaction() as session:
        assert delete_person(session, domain_id, third)
    assert told() == (set(), {str(third)})
    with database.transaction() as session:
        lock_domain(session, domain_id)
        ids, _ = ensure_persons(session, domain_id, ["b0", "b1"])
        rows = [template(ids[label], vector) for label, vector in zip(ids, random_units(2, 8, seed=8), strict=True)]
        copy_templates(session, domain_id, columns_of(rows))
    assert told() == ({str(ids["b0"]), str(ids["b1"])}, set())
    with database.transaction() as session:  # past everything that is meant for it
        session.execute(text("DELETE FROM persons WHERE label = 'b0'"))
    assert told() == (set(), {str(ids["b0"])})


def test_a_rollback_is_not_told(feed: GalleryFeed, database: Database, make_gallery: Maker) -> None:
    domain_id = make_gallery("people", random_units(2, 8)).domain_id
    before = version_of(database)
    gone = person_id(database, "p0")

    def begin_and_break_off() -> None:
        with database.transaction() as session:
            delete_person(session, domain_id, gone)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin_and_break_off()
    assert version_of(database) == before


def test_who_has_long_been_gone_is_forgotten_and_whoever_comes_later_begins_anew(
    database: Database, make_gallery: Maker
) -> None:
    domain_id = make_gallery("people", random_units(4, 8)).domain_id
    feed, forgetful = GalleryFeed(database, KEEP_S), GalleryFeed(database, 0.0)
    late, early = Follower(feed, "people").sync(), Follower(feed, "people").sync()
    for label in ("p0", "p1"):
        with database.transaction() as session:
            delete_person(session, domain_id, person_id(database, label))
    early.sync()
    assert feed.prune(10) == 0  # not that long
    assert forgetful.prune(1) == 1
    assert forgetful.prune(10) == 1
    assert forgetful.prune(10) == 0
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM gallery_changes")) == 2
    assert not early.sync().last.full
    assert late.sync().last.full
    assert early.members == late.members == everything(feed, "people")
    # Whoever begins anew gets to the end, in pages as well, although all versions are older than what was forgotten.
    assert Follower(feed, "people", limit=1).sync().members == early.members


def test_what_is_forgotten_while_somebody_reads_makes_them_begin_again(database: Database, make_gallery: Maker) -> None:
    domain_id = make_gallery("people", random_units(4, 8)).domain_id
    feed, forgetful = GalleryFeed(database, KEEP_S), GalleryFeed(database, 0.0)
    reader = Follower(feed, "people", limit=2)
    assert reader.next_page()
    (known, *_) = reader.members
    with database.transaction() as session:
        delete_person(session, domain_id, UUID(known))
    forgetful.prune(10)
    reader.sync()
    assert known not in reader.members
    assert reader.members == everything(feed, "people")


def test_versions_of_another_time_are_not_mistaken_for_its_own(
    feed: GalleryFeed, database: Database, make_gallery: Maker
) -> None:
    domain_id = make_gallery("people", random_units(3, 8)).domain_id
    follower = Follower(feed, "people").sync()
    with database.transaction() as session:
        drop_domain(session, domain_id)
    with pytest.raises(DomainNotFound):
        follower.sync()
    make_gallery("people", random_units(5, 8, seed=3))
    assert follower.sync().last.full
    assert follower.members == everything(feed, "people")
    with database.transaction() as session:  # a backup of before is restored
        session.execute(text("UPDATE domains SET gallery_version = gallery_version - 1, gallery_pruned = 0"))
    assert follower.sync().last.full


_NO_EPOCH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("since", ["", "x", "0", f"{_NO_EPOCH}", f"{_NO_EPOCH}.-1", f"{_NO_EPOCH}.1.2.3", "1" * 90])
def test_what_is_no_version_is_refused(feed: GalleryFeed, make_gallery: Maker, since: str) -> None:
    make_gallery("people", random_units(1, 8))
    with pytest.raises(InvalidRequest):
        feed.page("people", since, 10, lambda _etag: False)


def test_a_position_is_read_as_it_was_written() -> None:
    for position in (Position(uuid4(), 0), Position(uuid4(), 10**17, 5)):
        assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    ("metadata", "locks"),
    [
        (None, ()),
        ([], ()),
        (["b", "a", "b"], ("a", "b")),
        ("DC001", None),
        ({"DC001": True}, None),
        (["DC001", 7], None),
        (["DC001", ""], None),
        (["DC001"] * (MAX_LOCKS + 1), None),
    ],
)
def test_locks_are_a_list_of_names(metadata: object, locks: tuple[str, ...] | None) -> None:
    assert locks_of(metadata) == locks


def test_malformed_locks_are_said_and_open_nothing(feed: GalleryFeed, database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(1, 8))
    PersonService(database).update("people", "p0", PersonChange(metadata={"locks": "DC001"}))
    ((member, _templates),) = everything(feed, "people").values()
    assert (member.locks, member.locks_malformed) == ((), True)


def test_all_that_leaves_at_once_is_noted(feed: GalleryFeed, database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(3, 8))
    Follower(feed, "people", limit=2).sync().sync()
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM audit_events WHERE body LIKE '%gallery.read%'")) == 2


def test_a_version_that_was_made_up_takes_nothing_unnoted(
    feed: GalleryFeed, database: Database, make_gallery: Maker
) -> None:
    make_gallery("people", random_units(3, 8))
    reader = Follower(feed, "people").sync()
    known = Position.parse(reader.version)
    noted = 1

    def told(version: int, began: int | None = None) -> Header:
        body = feed.page("people", str(Position(known.token, version, began)), 10, lambda _etag: False).body
        return decode(body)[0]

    def events() -> int:
        with database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM audit_events WHERE body LIKE '%gallery.read%'"))

    assert events() == noted
    for version, began in ((0, None), (1, None), (0, 3), (1, 3), (0, 4), (4, None)):
        assert told(version, began).members
        noted += 1
        assert events() == noted
    assert told(3).members == ()
    assert told(0, 4).full  # it began later than anything there is
    assert events() == noted + 1


def test_who_read_what_a_restored_backup_does_not_have_begins_anew(
    feed: GalleryFeed, database: Database, make_gallery: Maker
) -> None:
    domain_id = make_gallery("people", random_units(3, 8)).domain_id
    follower, early = Follower(feed, "people").sync(), Follower(feed, "people").sync()
    with database.transaction() as session:
        backup = session.execute(text("SELECT gallery_version, gallery_token FROM domains")).one()
        kept = session.execute(text("SELECT person_id, version FROM gallery_changes")).all()
    people = PersonService(database)
    people.update("people", "p0", PersonChange(display_name="lost"))
    follower.sync()
    known = feed.page("people", follower.version, 10, lambda _etag: False).etag
    with database.transaction() as session:
        session.execute(text("UPDATE persons SET display_name = 'Person 0' WHERE label = 'p0'"))
        session.execute(text("DELETE FROM gallery_versions WHERE version >= :last"), {"last": backup.gallery_version})
        for person, version in kept:
            values = {"person": person, "version": version}
            session.execute(text("UPDATE gallery_changes SET version = :version WHERE person_id = :person"), values)
        values = {"version": backup.gallery_version, "token": backup.gallery_token, "id": domain_id}
        session.execute(
            text("UPDATE domains SET gallery_version = :version, gallery_token = :token WHERE id = :id"), values
        )
    early.sync()
    people.update("people", "p1", PersonChange(display_name="of after"))  # the same number again, for something else
    assert feed.page("people", follower.version, 10, {known}.__contains__).body is not None
    assert follower.sync().last.full
    assert follower.members == everything(feed, "people")
    assert not early.sync().last.full
    assert early.members == follower.members


def test_versions_that_nobody_can_come_with_any_more_are_forgotten(database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(1, 8))
    feed, forgetful = GalleryFeed(database, KEEP_S), GalleryFeed(database, 0.0)
    early = Follower(feed, "people").sync()
    for name in ("a", "b"):
        PersonService(database).update("people", "p0", PersonChange(display_name=name))

    def versions() -> int:
        with database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM gallery_versions"))

    before = versions()
    late = Follower(feed, "people").sync()
    feed.prune(10)
    assert versions() == before >= 2
    forgetful.prune(10)
    assert versions() == 0
    assert not late.sync().last.full
    assert early.sync().last.full


def test_who_is_renamed_while_they_get_their_first_face_is_told_by_the_new_name(
    feed: GalleryFeed, database: Database, make_gallery: Maker
) -> None:
    domain_id = make_gallery("people", random_units(1, 8)).domain_id
    people = PersonService(database)
    people.create("people", "new", None, PersonDetails())
    new = person_id(database, "new")
    follower = Follower(feed, "people").sync()
    with database.transaction() as session:
        lock_domain(session, domain_id)
        renaming = threading.Thread(
            target=carried(lambda: _rename(database, new, "after")), name="renaming", daemon=True
        )
        renaming.start()
        _wait_for_a_lock(database)
        insert_templates(session, domain_id, [template(new, random_units(1, 8, seed=7)[0])])
        before = session.scalar(text("SELECT gallery_version FROM domains"))
    renaming.join(60)
    assert version_of(database) == before + 1
    follower.sync()
    assert "after" in follower.names


def _rename(database: Database, person: UUID, name: str) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE persons SET display_name = :name WHERE id = :id"), {"name": name, "id": person})


# Other tests' databases are the same server's; a lock on a transaction is of none.
_LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted"
    " AND (database IS NULL OR database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)


def _wait_for_a_lock(database: Database) -> None:
    for _ in range(6_000):
        with database.transaction() as session:
            if session.scalar(text(_LOCKS)):
                return
        threading.Event().wait(0.01)
    raise AssertionError("Nobody waits for a lock.")


def test_a_neighbours_gallery_is_not_there(feed: GalleryFeed, make_gallery: Maker) -> None:
    theirs = make_gallery("theirs", random_units(2, 8))
    mine = make_gallery("mine", random_units(1, 8))
    since = str(Position(uuid4(), 0))
    with acting(Reach("key-1", frozenset({"mine"}), frozenset({mine.domain_id}))):
        assert len(everything(feed, "mine")) == 1
        for name in ("theirs", str(theirs.uid)):
            with pytest.raises(DomainNotFound):
                feed.page(name, since, 10, lambda _etag: False)


def test_galleries_from_before_are_numbered(feed: GalleryFeed, database: Database, make_gallery: Maker) -> None:
    domain_id = make_gallery("people", random_units(4, 8), owners=[0, 0, 1, 2]).domain_id
    before = everything(feed, "people")
    migrate.downgrade(database.engine, "0005")
    migrate.upgrade(database.engine)
    follower = Follower(feed, "people", limit=2).sync()
    assert follower.members == before
    with database.transaction() as session:
        delete_person(session, domain_id, person_id(database, "p0"))
        copied = columns_of([template(person_id(database, "p1"), random_units(1, 8, seed=4)[0])])
        copy_templates(session, domain_id, copied)  # into the partition itself
    follower.sync()
    assert (len(follower.last.members), len(follower.last.removed)) == (1, 1)


def test_nothing_that_was_committed_is_ever_skipped(feed: GalleryFeed, database: Database) -> None:
    """Writers of all kinds at once, and readers that never stop: what was committed before a reader begins, it has."""
    with database.transaction() as session:
        domain = create_domain(session, "people", model="test", contract=contract(8), dimension=8)
        domain_id = domain.id
        ids = [ensure_persons(session, domain_id, [f"w{n}"])[0][f"w{n}"] for n in range(3)]
        insert_templates(
            session, domain_id, [template(one, random_units(1, 8, seed=n)[0]) for n, one in enumerate(ids)]
        )
    committed = {str(one): -1 for one in ids}
    rounds, failures, over = 25, list[BaseException](), threading.Event()

    def write(number: int, one: UUID) -> None:
        persons = PersonService(database)
        for count in range(rounds):
            with database.transaction() as session:
                if number == 0:  # without the domain's lock first, as nobody should
                    session.get_one(Person, one).display_name = str(count)
                else:
                    lock_domain(session, domain_id)
                    passing = Person(domain_id=domain_id, label=f"{number}-{count}", display_name="passing")
                    session.add(passing)
                    session.flush()
                    insert_templates(
                        session, domain_id, [template(passing.id, random_units(1, 8, seed=100 * number + count)[0])]
                    )
                    session.get_one(Person, one).display_name = str(count)
                session.flush()
                session.execute(text("SELECT pg_sleep(0.003)"))  # others have begun meanwhile
            committed[str(one)] = count
            if number and count % 2:
                with database.transaction() as session:
                    delete_person(session, domain_id, passing.id)
            if number == 2 and count % 4 == 0:
                persons.update("people", f"2-{count}", PersonChange(valid_from=datetime.now(UTC) - timedelta(days=1)))

    def read(limit: int) -> None:
        follower = Follower(feed, "people", limit)
        while not over.is_set():
            before = dict(committed)
            follower.sync()
            for key, count in before.items():
                name = follower.members[key][0].name
                assert int(name) >= count if name.isdigit() else count == -1
        follower.sync()
        assert follower.members == everything(feed, "people")
        assert sum(header.full for header in follower.headers) == 1  # by deltas alone

    def guarded(act, *arguments) -> None:
        try:
            act(*arguments)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=carried(guarded), args=(read, limit)) for limit in (2, 1000)]
    writers = [threading.Thread(target=carried(guarded), args=(write, n, one)) for n, one in enumerate(ids)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    assert failures == []
    with database.transaction() as session:
        assert (
            find_domain(session, "people").template_count
            == session.query(FaceEmbedding).count()
            == len(everything(feed, "people"))
        )
        # Each change has a version of its own.
        assert session.scalar(text("SELECT count(*) - count(DISTINCT version) FROM gallery_changes")) == 0
