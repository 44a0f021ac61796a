"""Datasets into domains: what is moved, what is refused, what is reported."""

import pickle
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from app.datasets.deepface import describe
from app.datasets.export import export_domain
from app.datasets.migrate import migrate
from app.datasets.plan import Target, choose
from app.datasets.report import Silent
from app.datasets.rows import DatasetInfo, DatasetRow
from app.db import migration_runs
from app.db.domains import create_domain, drop_domain, find_domain
from app.db.partitions import index_name
from app.db.session import Database
from app.db.vectors import SearchOptions, SearchPath, search
from app.enrolment.persons import PersonService
from app.errors import (
    ContractMismatch,
    DatabaseUnavailable,
    DomainNotFound,
    InvalidDataset,
    InvalidRequest,
    MigrationRunning,
    MigrationUnfinished,
    NothingToResume,
)
from app.tenancy import carried
from tests.datasets import making
from tests.datasets.migrating import (
    DIMENSION,
    expected,
    gallery_of,
    nothing_there,
    order,
    pack,
    raw_vectors,
    rows_of,
    run,
    runs,
    stored,
    write,
)

LABELS = ["Ana", "Škoda 😀", "O'Brien; DROP TABLE persons--", "100 %", "a/b", "a\\b", "..", "room 12", "عمر", "x" * 200]


@pytest.mark.parametrize("form", ["pkl", "npz"])
def test_every_row_becomes_a_template_of_its_person(database: Database, tmp_path: Path, form: str) -> None:
    rows = rows_of(23)
    report = run(database, write(tmp_path, rows, form=form), tmp_path, batch_rows=5)
    assert stored(database) == expected(rows)
    assert (report.rows, report.migrated, report.persons, dict(report.skipped)) == (23, 23, 7, {})
    gallery = gallery_of(database)
    assert (gallery.complete, gallery.index_valid, gallery.template_count) == (True, True, 23)
    (noted,) = runs(database)
    assert (noted.state, noted.rows_total, noted.rows_done, noted.rows_migrated) == ("finished", 23, 23, 23)
    assert set(noted.seconds) == {"read", "prepare", "store", "index"}
    assert set(report.seconds) == {*noted.seconds, "total"}
    assert report.as_json()["seconds"]["total"] >= max(report.as_json()["seconds"].values())


def test_boxes_are_kept_and_what_is_not_known_is_empty(database: Database, tmp_path: Path) -> None:
    path = making.dump(
        tmp_path,
        making.as_dicts(["A/1.jpg", "B/1.jpg"], raw_vectors(2), boxes=[(3, 4, 50, 60), (-(2**40), 2**40, 1, 2)]),
        name=write(tmp_path / "named", rows_of(1)).name,
    )
    run(database, path, tmp_path)
    with database.transaction() as session:
        found = session.execute(
            text(
                "SELECT p.label, box_x, box_y, box_w, box_h, score, sharpness, image_sha256"
                " FROM face_embeddings JOIN persons AS p ON p.id = person_id ORDER BY 1"
            )
        ).all()
    assert found[0] == ("A", 3, 4, 50, 60, 0.0, 0.0, None)
    label, x, y, *_ = found[1]
    assert (label, x, y) in (("B", -(2**31), 2**31 - 1), ("B", 0, 0))


def test_labels_of_any_text_arrive(database: Database, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    vectors = raw_vectors(len(LABELS))
    with database.transaction() as session:
        create_domain(session, "first", model="made-up", contract=pack().contract.id, dimension=DIMENSION)
    persons = PersonService(database)
    for label in LABELS:
        persons.create("first", label, None)
    with database.transaction() as session:
        assert set(session.scalars(text("SELECT label FROM persons"))) == set(LABELS)
    from app.datasets.labels import export_identity

    rows = [
        DatasetRow(export_identity(label, "1.jpg"), label, vector, None, "", None)
        for label, vector in zip(LABELS, vectors, strict=True)
    ]
    run(database, write(source, rows), tmp_path)
    assert stored(database) == expected(rows)


def test_a_file_name_that_is_no_text_is_shown_as_far_as_it_is(database: Database, tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(3))
    path = path.rename(
        path.with_stem(f"{path.stem}_\udcff\x1b[31m")
    )  # a byte that is no UTF-8, and a terminal's command
    report = run(database, path, tmp_path)
    shown = f"{path.stem[:-6]}??[31m.pkl"
    assert [found.source_name for found in runs(database)] == [shown]
    assert report.as_json()["dataset"]["file"] == shown
    assert shown in report.as_text()


def test_rows_without_a_usable_vector_are_counted_and_nothing_else_happens(database: Database, tmp_path: Path) -> None:
    vectors = raw_vectors(8)
    bad = [None, np.full(DIMENSION, np.nan), np.zeros(DIMENSION), np.ones(DIMENSION + 1)]
    paths = [f"P/{n}.jpg" for n in range(12)]
    name = write(tmp_path / "named", rows_of(1)).name
    path = making.dump(tmp_path, making.as_dicts(paths, [*vectors[:4], *bad, *vectors[4:]]), name=name)
    report = run(database, path, tmp_path, batch_rows=3)
    assert dict(report.skipped) == {"no_vector": 1, "not_finite": 1, "zero_norm": 1, "wrong_length": 1}
    assert (report.rows, report.migrated) == (12, 8)
    assert sum(stored(database).values()) == 8


def test_two_faces_of_one_picture_are_kept_and_a_repeated_row_is_not(database: Database, tmp_path: Path) -> None:
    one, other = raw_vectors(2)
    rows = [
        DatasetRow("f/A/1.jpg", "A", one, None, "", None),
        DatasetRow("f/A/1.jpg", "A", other, None, "", None),  # a second face
        DatasetRow("f/A/1.jpg", "A", one, None, "", None),  # the same row again
        DatasetRow("f/A/2.jpg", "A", one, None, "", None),  # the same photo under another name
        DatasetRow("f/B/1.jpg", "B", one, None, "", None),
    ]
    report = run(database, write(tmp_path, rows), tmp_path, batch_rows=2)
    assert dict(report.skipped) == {"duplicate": 1}
    assert stored(database) == expected([rows[0], rows[1], rows[3], rows[4]])


def test_a_label_that_is_a_persons_id_is_passed_over(database: Database, tmp_path: Path) -> None:
    run(database, write(tmp_path / "one", rows_of(3)), tmp_path)
    id_ = str(PersonService(database).get("people", "person 1").id)
    report = run(database, write(tmp_path / "two", rows_of(4, persons=2, seed=1, label=id_)), tmp_path)
    assert (report.migrated, dict(report.skipped)) == (0, {"label_is_an_id": 4})
    assert sum(stored(database).values()) == 3


def test_a_dry_run_reports_and_writes_nothing(database: Database, tmp_path: Path) -> None:
    rows = [*rows_of(9), rows_of(9)[4]]
    path = write(tmp_path, rows)
    before = path.read_bytes()
    rehearsed = run(database, path, tmp_path, dry_run=True)
    assert nothing_there(database)
    assert rehearsed.persons is None
    done = run(database, path, tmp_path)
    assert (rehearsed.rows, rehearsed.migrated, rehearsed.skipped) == (done.rows, done.migrated, done.skipped)
    again = run(database, path, tmp_path, dry_run=True)
    assert (again.migrated, dict(again.skipped)) == (0, {"present": 9, "duplicate": 1})
    assert len(runs(database)) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("mode", "model"), [("auto", "arcface"), ("copy", "arcface"), ("copy", "dlib"), ("auto", "dlib")]
)
def test_another_models_vectors_are_refused(database: Database, tmp_path: Path, mode: str, model: str) -> None:
    path = write(tmp_path, rows_of(3), model=model)
    with pytest.raises(ContractMismatch, match=f"of '{model}'.* would mix two models"):
        run(database, path, tmp_path, mode=mode)
    assert nothing_there(database)


def test_another_models_dataset_into_an_existing_domain_is_refused(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        create_domain(session, "people", model="other", contract="other:16:0", dimension=DIMENSION)
    with pytest.raises(ContractMismatch, match="domain 'people'"):
        run(database, write(tmp_path, rows_of(3)), tmp_path)
    assert runs(database) == []
    assert gallery_of(database).complete


def test_vectors_of_another_length_are_refused(database: Database, tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(3, vectors=raw_vectors(3, dimension=DIMENSION + 1)))
    with pytest.raises(ContractMismatch, match="17 dimensions"):
        run(database, path, tmp_path)
    assert nothing_there(database)


def test_a_dataset_without_any_usable_vector_is_refused(database: Database, tmp_path: Path) -> None:
    name = write(tmp_path / "named", rows_of(1)).name
    path = making.dump(tmp_path, making.as_dicts(["A/1.jpg", "A/2.jpg"], [None, None]), name=name)
    with pytest.raises(InvalidDataset, match="no row with a usable"):
        run(database, path, tmp_path)
    assert nothing_there(database)


def damaged(path: Path) -> Path:
    """A pickle whose last instruction but one makes no sense: every row before can be read."""
    path.write_bytes(path.read_bytes().removesuffix(pickle.STOP) + pickle.APPEND + pickle.STOP)
    return path


def test_a_damaged_dataset_leaves_no_half_filled_domain(database: Database, tmp_path: Path) -> None:
    path = damaged(write(tmp_path, rows_of(10_000)))
    begun: list[int] = []

    class Seeing(Silent):
        def advance(self, rows: int) -> None:
            begun.append(sum(stored(database).values()))

    with pytest.raises(InvalidDataset):
        migrate(order(path, tmp_path, batch_rows=1000), database, Seeing())
    assert begun  # rows had been stored when it was found out
    assert nothing_there(database)


def test_a_damaged_dataset_takes_nothing_from_a_domain_that_was_there(database: Database, tmp_path: Path) -> None:
    first = rows_of(30)
    run(database, write(tmp_path / "one", first), tmp_path)
    rows = rows_of(10_000, seed=1)
    whole = write(tmp_path / "two", rows)
    data = whole.read_bytes()
    with pytest.raises(InvalidDataset):
        run(database, damaged(whole), tmp_path, batch_rows=1000)
    assert expected(first) < stored(database)
    assert gallery_of(database).complete
    whole.write_bytes(data)
    report = run(database, whole, tmp_path)
    assert report.migrated + report.skipped["present"] == 10_000
    assert stored(database) == expected([*first, *rows])


def test_a_dataset_that_changes_while_it_is_read_is_refused(database: Database, tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(5))

    class Meddling(Silent):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            path.touch()

    with pytest.raises(InvalidDataset, match="changed while it was read"):
        migrate(order(path, tmp_path), database, Meddling())
    assert nothing_there(database)


def test_reembedding_needs_pictures(database: Database, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--images"):
        run(database, write(tmp_path, rows_of(3), model="arcface"), tmp_path, mode="reembed")


@pytest.mark.parametrize(
    ("model", "wanted", "images", "mode"),
    [
        ("fit", "auto", None, "copy"),
        ("fit", "auto", "x", "copy"),
        ("fit", "reembed", "x", "reembed"),
        ("arcface", "auto", "x", "reembed"),
    ],
)
def test_the_mode_and_why(model: str, wanted: str, images: str | None, mode: str, tmp_path: Path) -> None:
    manifest = pack()
    fitting = "facedexnone16" + "0" * 16
    info = DatasetInfo(tmp_path, "0" * 64, fitting if model == "fit" else model, None, "pickle", 1)
    target = Target("people", manifest.name, manifest.contract.id, DIMENSION, exists=False)
    plan = choose(info, target, manifest, wanted, None if images is None else tmp_path)  # type: ignore[arg-type]
    assert plan.mode == mode
    assert info.model in plan.reason or "asked for" in plan.reason


def test_a_domain_in_use_gets_more_and_stays_complete(database: Database, tmp_path: Path) -> None:
    first, second = rows_of(400), rows_of(20, seed=1)
    run(database, write(tmp_path / "one", first), tmp_path)
    before = _index_oid(database)
    report = run(database, write(tmp_path / "two", second), tmp_path)
    assert stored(database) == expected([*first, *second])
    assert (report.persons, gallery_of(database).complete, gallery_of(database).index_valid) == (0, True, True)
    # Few rows are added to the index that is there.
    assert _index_oid(database) == before
    many = rows_of(600, seed=2)
    run(database, write(tmp_path / "three", many), tmp_path)
    assert stored(database) == expected([*first, *second, *many])
    assert _index_oid(database) != before


def test_searches_are_right_while_a_domain_in_use_gets_more(database: Database, tmp_path: Path) -> None:
    first = rows_of(60)
    run(database, write(tmp_path / "one", first), tmp_path)
    probes = np.frombuffer(b"".join(vector for _, vector in expected(first)), np.float32).reshape(-1, DIMENSION)
    labels = [label for label, _ in expected(first)]
    options = SearchOptions(top_k=2, threshold=0.3, margin=0.02, exact_max_rows=10, ef_search=40)
    paths: Counter[SearchPath] = Counter()

    class Searching(Silent):
        def advance(self, rows: int) -> None:
            with database.transaction() as session:
                gallery = gallery_of(database)
                assert gallery.complete
                for label, hits in zip(labels, search(session, gallery, probes, options), strict=True):
                    assert hits.persons[0].label == label
                    paths[hits.path] += 1

    second = rows_of(100, seed=3)
    migrate(order(write(tmp_path / "two", second), tmp_path, batch_rows=20), database, Searching())
    assert paths[SearchPath.EXACT] > 0  # without an index in between
    assert stored(database) == expected([*first, *second])


def test_running_it_again_changes_nothing(database: Database, tmp_path: Path) -> None:
    rows = rows_of(30)
    path = write(tmp_path, rows)
    run(database, path, tmp_path)
    report = run(database, path, tmp_path)
    assert (report.migrated, dict(report.skipped)) == (0, {"present": 30})
    assert stored(database) == expected(rows)
    with pytest.raises(NothingToResume):
        run(database, path, tmp_path, resume=True)


def test_there_is_nothing_to_resume_in_a_domain_that_is_not_there(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NothingToResume, match="'people'"):
        run(database, write(tmp_path, rows_of(3)), tmp_path, resume=True)
    assert nothing_there(database)


def test_a_second_migration_of_the_same_domain_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_runs, "_WAIT_FOR_LOCK_S", 0.1)
    rows, others = rows_of(40), rows_of(5, seed=1)
    path, other = write(tmp_path / "one", rows), write(tmp_path / "two", others)
    refused: list[Exception] = []

    class Rival(Silent):
        def advance(self, rows: int) -> None:
            for dataset in (path, other):
                with pytest.raises(MigrationRunning, match="'people'") as caught:
                    run(database, dataset, tmp_path)
                refused.append(caught.value)

    class OnceLoading(Rival):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            self.loading = name == "copy"

        def advance(self, rows: int) -> None:
            if self.loading:
                super().advance(rows)

    migrate(order(path, tmp_path, batch_rows=20), database, OnceLoading())
    assert len(refused) == 4
    assert stored(database) == expected(rows)
    # Another domain is nobody's business.
    run(database, other, tmp_path, domain="others")


def test_many_at_once_leave_the_set_of_one(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_runs, "_WAIT_FOR_LOCK_S", 0.0)
    rows = rows_of(300)
    path = write(tmp_path, rows)
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(run(database, path, tmp_path, batch_rows=10))
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=carried(work)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(errors) < 4
    assert {type(error) for error in errors} <= {MigrationRunning}
    assert stored(database) == expected(rows)


def test_whoever_lost_the_lock_unnoticed_stores_nothing(database: Database, tmp_path: Path) -> None:
    """The checkpoint is compared before it is moved: a second writer cannot count rows twice."""
    rows = rows_of(40)
    path = write(tmp_path, rows)

    class Overtaken(Silent):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            self.loading = name == "copy"

        def advance(self, rows: int) -> None:
            if self.loading:
                self.loading = False
                with database.transaction() as session:
                    session.execute(text("UPDATE migration_runs SET rows_done = 39"))

    with pytest.raises(MigrationRunning, match="taken over"):
        migrate(order(path, tmp_path, batch_rows=10), database, Overtaken())
    assert sum(stored(database).values()) == 10


def test_a_broken_off_migration_has_to_be_finished_before_another_one(database: Database, tmp_path: Path) -> None:
    rows = rows_of(40)
    path = write(tmp_path / "one", rows)
    _break_off(database, path, tmp_path)
    other = write(tmp_path / "two", rows_of(3, seed=1))
    begun, given = (f"{file.name!r} (SHA-256 {describe(file).sha256[:12]}…)" for file in (path, other))
    with pytest.raises(MigrationUnfinished, match=re.escape(f"not been finished: of {begun}, and this is {given}.")):
        run(database, other, tmp_path)
    with pytest.raises(MigrationUnfinished, match="has not finished"):
        export_domain(database, "people", tmp_path / "out", form=None, replace=False)
    report = run(database, path, tmp_path, resume=True)
    assert (report.resumed_at, report.migrated) == (10, 40)
    assert stored(database) == expected(rows)


def test_a_domain_deleted_on_the_way_ends_the_migration(database: Database, tmp_path: Path) -> None:
    class Deleting(Silent):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            if name == "index":
                with database.transaction() as session:
                    drop_domain(session, find_domain(session, "people").id)

    with pytest.raises(DomainNotFound):
        migrate(order(write(tmp_path, rows_of(10)), tmp_path), database, Deleting())
    assert nothing_there(database)


def test_a_full_database_disk_ends_it_and_it_goes_on_afterwards(database: Database, tmp_path: Path) -> None:
    rows = rows_of(40)
    path = write(tmp_path, rows)

    class Filling(Silent):
        """From the second batch on the server answers what it answers when its disk is full."""

        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            self.loading = name == "copy"

        def advance(self, rows: int) -> None:
            if self.loading:
                with database.maintenance() as connection:
                    connection.execute(text(_FULL_DISK_SQL.format(table=f"face_embeddings_{_domain_id(database)}")))

    with pytest.raises(DatabaseUnavailable):
        migrate(order(path, tmp_path, batch_rows=10), database, Filling())
    assert sum(stored(database).values()) == 10
    assert (runs(database)[0].state, runs(database)[0].error_code) == ("failed", "database_unavailable")
    with database.maintenance() as connection:
        connection.execute(text("DROP FUNCTION full_disk CASCADE"))
    assert run(database, path, tmp_path, batch_rows=10).resumed_at == 10
    assert stored(database) == expected(rows)


_FULL_DISK_SQL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


def _break_off(database: Database, path: Path, folder: Path) -> None:
    """Leave a migration after its first batch."""

    class Leaving(Silent):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            self.loading = name == "copy"

        def advance(self, rows: int) -> None:
            if self.loading:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(order(path, folder, batch_rows=10), database, Leaving())
    assert not gallery_of(database).complete


def _domain_id(database: Database) -> int:
    return gallery_of(database).domain_id


def _index_oid(database: Database) -> int:
    with database.transaction() as session:
        name = index_name(gallery_of(database).domain_id)
        return session.scalar(text("SELECT CAST(to_regclass(:name) AS oid)"), {"name": name})  # type: ignore[no-any-return]


def index_file(database: Database) -> int | None:
    """Which file on disk holds the domain's index: another one after it was built anew."""
    name = index_name(gallery_of(database).domain_id)
    with database.transaction() as session:
        return session.scalar(text("SELECT pg_relation_filenode(CAST(:name AS regclass))"), {"name": name})


def test_migrating_what_is_there_already_leaves_the_index_in_use(database: Database, tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(60))
    run(database, path, tmp_path)
    before = index_file(database)
    report = run(database, path, tmp_path)
    assert (report.migrated, dict(report.skipped)) == (0, {"present": 60})
    assert index_file(database) == before
    assert stored(database) == expected(rows_of(60))


def test_an_earlier_attempt_of_which_nothing_came_does_not_stand_in_the_way(database: Database, tmp_path: Path) -> None:
    """All rows unusable: the domain made for them is gone again, also where another attempt had made it."""
    name = write(tmp_path / "named", rows_of(1)).name
    (tmp_path / "useless").mkdir()
    useless = making.dump(tmp_path / "useless", making.as_dicts(["A/1.jpg"], [np.zeros(DIMENSION)]), name=name)
    with database.transaction() as session:
        create_domain(
            session, "people", model=pack().name, contract=pack().contract.id, dimension=DIMENSION, complete=False
        )
    with pytest.raises(InvalidDataset):
        run(database, useless, tmp_path)
    path = write(tmp_path, rows_of(7))
    run(database, path, tmp_path)
    assert stored(database) == expected(rows_of(7))
