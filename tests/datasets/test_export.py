"""The way back: what is exported is what is there, and comes in again as it was."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.datasets.deepface import describe, read_rows
from app.datasets.export import export_domain
from app.datasets.labels import export_identity
from app.datasets.names import deepface_file_name
from app.datasets.rows import DatasetRow
from app.db.domains import create_domain
from app.db.session import Database
from app.db.templates import insert_templates
from app.enrolment.persons import PersonService
from app.errors import AmbiguousDataset, DatasetNotWritten, DomainNotFound, InvalidRequest
from app.vision.dlib_weights import WEIGHTS_SHA256
from app.vision.faces import Box
from tests.datasets.migrating import DIMENSION, expected, gallery_of, pack, raw_vectors, rows_of, run, stored, write
from tests.datasets.test_migrate import LABELS
from tests.db_server import random_units, template


def _filled(database: Database, folder: Path) -> list[DatasetRow]:
    """A domain with persons of any name, who have two templates each, and one who was enrolled."""
    vectors = raw_vectors(2 * len(LABELS))
    rows = [
        DatasetRow(export_identity(label, f"{n}.jpg"), label, vectors[2 * n + m], Box(n, m, 3, 4), "", None)
        for n, label in enumerate(LABELS)
        for m in range(2)
    ]
    run(database, write(folder / "source", rows), folder)
    person = PersonService(database).create("people", "enrolled", "Somebody Else")
    with database.transaction() as session:
        vector = random_units(1, DIMENSION, seed=9)[0]
        insert_templates(session, gallery_of(database).domain_id, [template(person.id, vector, b"x" * 32)])
    return rows


@pytest.mark.parametrize("form", ["pkl", "npz"])
def test_what_is_exported_gives_the_same_set_again(database: Database, tmp_path: Path, form: str) -> None:
    rows = _filled(database, tmp_path)
    before = stored(database)
    export = export_domain(database, "people", tmp_path / "out", form=form, replace=False)  # type: ignore[arg-type]
    assert (export.rows, export.persons) == (len(rows) + 1, len(LABELS) + 1)
    report = run(database, export.path, tmp_path, domain="again")
    assert (report.migrated, report.persons) == (export.rows, export.persons)
    assert stored(database, "again") == before
    boxes = Counter((row.label, row.box) for row in read_rows(export.path))
    assert boxes == Counter([(row.label, row.box) for row in rows] + [("enrolled", Box(1, 2, 30, 40))])


def test_importing_it_where_it_came_from_adds_nothing(database: Database, tmp_path: Path) -> None:
    _filled(database, tmp_path)
    before = stored(database)
    export = export_domain(database, "people", tmp_path / "out", form=None, replace=False)
    report = run(database, export.path, tmp_path)
    assert (report.migrated, dict(report.skipped)) == (0, {"present": export.rows})
    assert stored(database) == before


def test_a_domain_of_one_person_keeps_the_name(database: Database, tmp_path: Path) -> None:
    rows = rows_of(5, persons=1, label="room 12")
    run(database, write(tmp_path / "source", rows), tmp_path)
    export = export_domain(database, "people", tmp_path, form=None, replace=False)
    assert {row.label for row in read_rows(export.path)} == {"room 12"}


def test_templates_that_are_there_twice_come_back_twice(database: Database, tmp_path: Path) -> None:
    vector = raw_vectors(1)[0]
    rows = [DatasetRow(f"f/A/{n}.jpg", "A", vector, None, "", None) for n in range(3)]
    run(database, write(tmp_path / "source", rows), tmp_path)
    export = export_domain(database, "people", tmp_path, form=None, replace=False)
    run(database, export.path, tmp_path, domain="again")
    assert stored(database, "again") == expected(rows)
    run(database, export.path, tmp_path)
    assert stored(database) == expected(rows)


def test_vectors_are_the_stored_ones_bit_for_bit(database: Database, tmp_path: Path) -> None:
    run(database, write(tmp_path / "source", rows_of(50)), tmp_path)
    export = export_domain(database, "people", tmp_path, form=None, replace=False)
    read = Counter((row.label, np.asarray(row.embedding).tobytes()) for row in read_rows(export.path))
    assert read == stored(database)


def test_the_files_name_says_whose_vectors_it_holds(database: Database, tmp_path: Path) -> None:
    contract = f"dlib-chip-150-0.25:128:{WEIGHTS_SHA256[:16]}"
    with database.transaction() as session:
        create_domain(session, "people", model="dlib", contract=contract, dimension=128)
    path = export_domain(database, "people", tmp_path, form=None, replace=False).path
    assert path == tmp_path / deepface_file_name("dlib", "skip")
    assert path.stat().st_mode & 0o077 == 0
    named = tmp_path / deepface_file_name("dlib", "retinaface", form="npz")
    assert export_domain(database, "people", named, form=None, replace=False).path == named
    assert describe(named).form == "npz"
    (tmp_path / "backup").write_bytes(b"")
    for wrong, form in (
        (tmp_path / "backup", None),
        (tmp_path / "backup.pkl", None),
        (named, "pkl"),
        (tmp_path / "ds_ArcFace_dlib_v2.pkl", None),
    ):
        with pytest.raises(InvalidRequest, match="whose vectors"):
            export_domain(database, "people", wrong, form=form, replace=True)  # type: ignore[arg-type]
    assert pack().contract.id not in path.name


def test_the_fallbacks_dataset_is_brought_up_to_date_in_its_place(database: Database, tmp_path: Path) -> None:
    """A folder of the PKL service holds one dataset, and must go on doing so."""
    folder = tmp_path / "pkl"
    path = write(folder, rows_of(5), form="npz")
    run(database, path, tmp_path)
    run(database, write(tmp_path / "more", rows_of(5, seed=1)), tmp_path)
    with pytest.raises(DatasetNotWritten, match="exists already"):
        export_domain(database, "people", folder, form=None, replace=False)
    with pytest.raises(InvalidRequest, match="whose vectors"):
        export_domain(database, "people", folder, form="pkl", replace=True)
    assert export_domain(database, "people", folder, form=None, replace=True).path == path
    assert list(folder.iterdir()) == [path]
    assert len(list(read_rows(folder))) == 10
    write(folder, rows_of(1))
    with pytest.raises(AmbiguousDataset):
        export_domain(database, "people", folder, form=None, replace=True)


def test_a_file_that_exists_is_only_replaced_when_told_to(database: Database, tmp_path: Path) -> None:
    run(database, write(tmp_path / "source", rows_of(5)), tmp_path)
    path = export_domain(database, "people", tmp_path, form=None, replace=False).path
    before = path.read_bytes()
    run(database, write(tmp_path / "more", rows_of(5, seed=1)), tmp_path)
    with pytest.raises(DatasetNotWritten, match="exists already"):
        export_domain(database, "people", tmp_path, form=None, replace=False)
    assert path.read_bytes() == before
    assert export_domain(database, "people", tmp_path, form=None, replace=True).rows == 10
    assert len(list(read_rows(path))) == 10


def test_a_domain_that_is_not_there(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DomainNotFound):
        export_domain(database, "nobody", tmp_path, form=None, replace=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_what_was_there(database: Database, tmp_path: Path) -> None:
    run(database, write(tmp_path / "source", rows_of(5)), tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DatasetNotWritten):
        export_domain(database, "people", blocked / "below", form=None, replace=False)
    assert blocked.read_text() == "not a folder"
