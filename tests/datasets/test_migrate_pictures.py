"""Embedding the pictures of a dataset anew: which files are taken, and what happens when the pool fails."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.datasets.pictures import find_picture
from app.datasets.reembedding import Pictures
from app.db.domains import create_domain
from app.db.session import Database
from app.enrolment.quality import main_face
from app.errors import (
    ContractMismatch,
    EmbedderUnavailable,
    InvalidDataset,
    InvalidRequest,
    ModelUnavailable,
    PoolBusy,
    WorkerCrashed,
    WorkerTimeout,
)
from tests.datasets.made_up_pool import MadeUpPool, made_up_face
from tests.datasets.migrating import DIMENSION, gallery_of, nothing_there, rows_of, run, runs, stored, write


@pytest.fixture
def pool() -> MadeUpPool:
    return MadeUpPool()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A picture for each row of `rows_of(12, persons=3)`."""
    for row in rows_of(12, persons=3):
        path = tmp_path / "images" / Path(row.identity).relative_to("faces")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"picture of {row.identity}".encode())
    return tmp_path / "images"


Mover = Callable[..., Any]


@pytest.fixture
def move(database: Database, tmp_path: Path, images: Path, pool: MadeUpPool) -> Mover:
    def migrated(*, keep_going: bool = False, **changes: Any) -> Any:
        path = write(tmp_path, rows_of(12, persons=3), model="arcface")
        how = Pictures(images.resolve(), pool, main_face, 2, 5.0, 1000, keep_going)
        return run(database, path, tmp_path, **({"pictures": how, "batch_rows": 4} | changes))

    return migrated


def test_every_picture_becomes_a_template(database: Database, move: Mover, pool: MadeUpPool) -> None:
    report = move()
    assert (report.plan.mode, report.migrated, report.persons, dict(report.skipped)) == ("reembed", 12, 3, {})
    wanted = Counter(
        (row.label, _vector(f"picture of {row.identity}".encode()).tobytes()) for row in rows_of(12, persons=3)
    )
    assert stored(database) == wanted
    assert gallery_of(database).complete
    assert move().skipped == {"present": 12}
    assert len(pool.asked) == 12  # known pictures cost no worker


def test_pictures_that_show_nobody_are_counted_and_named(database: Database, move: Mover, images: Path) -> None:
    (images / "person 0/0-0.jpg").write_bytes(b"nobody")
    (images / "person 1/0-1.jpg").write_bytes(b"unreadable")
    (images / "person 2/0-2.jpg").write_bytes(b"x" * 1001)
    (images / "person 0/0-3.jpg").write_bytes((images / "person 0/0-6.jpg").read_bytes())
    report = move()
    assert report.skipped == {"no_face": 1, "invalid_image": 1, "upload_too_large": 1, "present": 1}
    assert report.examples["no_face"] == ["faces/person 0/0-0.jpg"]
    assert (report.migrated, sum(stored(database).values())) == (8, 8)


def test_missing_pictures_stop_it_before_anything_is_written(database: Database, move: Mover, images: Path) -> None:
    (images / "person 1/0-1.jpg").unlink()
    (images / "person 1/0-4.jpg").unlink()
    with pytest.raises(InvalidRequest, match=r"2 of 12 pictures .*person 1/0-1\.jpg"):
        move()
    assert nothing_there(database)
    rehearsed = move(dry_run=True)
    assert (rehearsed.migrated, rehearsed.skipped) == (10, {"picture_missing": 2})
    assert nothing_there(database)
    report = move(keep_going=True)
    assert (report.migrated, report.skipped) == (10, {"picture_missing": 2})
    assert report.examples["picture_missing"] == ["faces/person 1/0-1.jpg", "faces/person 1/0-4.jpg"]


@pytest.mark.parametrize(("word", "code"), [(b"crash", "worker_crashed"), (b"hang", "worker_timeout")])
def test_a_picture_that_a_worker_dies_of(word: bytes, code: str, database: Database, move: Mover, images: Path) -> None:
    (images / "person 2/0-5.jpg").write_bytes(word)
    with pytest.raises((WorkerCrashed, WorkerTimeout)):
        move()
    (broken,) = runs(database)
    assert (broken.state, broken.error_code, broken.rows_done) == ("failed", code, 4)
    report = move(keep_going=True)
    assert (report.resumed_at, report.migrated, report.skipped) == (4, 11, {code: 1})
    assert report.examples[code] == ["faces/person 2/0-5.jpg"]


def test_a_pool_that_is_gone_stops_it_whatever_was_asked(database: Database, move: Mover, images: Path) -> None:
    picture = images / "person 0/0-9.jpg"
    good = picture.read_bytes()
    picture.write_bytes(b"gone")
    with pytest.raises(EmbedderUnavailable):
        move(keep_going=True)
    assert runs(database)[0].rows_done == 8
    assert not gallery_of(database).complete
    picture.write_bytes(good)
    report = move(resume=True)
    assert (report.resumed_at, report.migrated) == (8, 12)


def test_a_busy_pool_is_waited_for(database: Database, move: Mover, pool: MadeUpPool) -> None:
    pool.busy = 3
    assert move().migrated == 12


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pool_with_another_model_is_refused_before_it_is_given_a_picture(
    database: Database, move: Mover, pool: MadeUpPool, dry_run: bool
) -> None:
    pool.contract = "another:16:0"
    with pytest.raises(ContractMismatch, match="makes another:16:0, the domain holds none:16:0"):
        move(dry_run=dry_run)
    assert pool.asked == []
    assert nothing_there(database)


@pytest.mark.parametrize("says_nothing", [PoolBusy, WorkerTimeout, WorkerCrashed])
def test_a_pool_that_has_no_time_to_say_what_it_makes_is_found_out_by_its_answers(
    database: Database, move: Mover, pool: MadeUpPool, says_nothing: type[Exception]
) -> None:
    pool.says_nothing, right, pool.contract = says_nothing, pool.contract, "another:16:0"
    with pytest.raises(ContractMismatch, match="another:16:0"):
        move()
    assert nothing_there(database)
    pool.contract = right
    assert move().migrated == 12


def test_a_pool_that_cannot_work_is_refused_before_anything_is_written(
    database: Database, move: Mover, pool: MadeUpPool
) -> None:
    pool.says_nothing = EmbedderUnavailable
    with pytest.raises(EmbedderUnavailable):
        move()
    pool.says_nothing, pool.contract = None, None
    with pytest.raises(ModelUnavailable):
        move()
    assert nothing_there(database)


def test_pictures_are_judged_by_the_measures_of_the_domains_own_pack_only(
    database: Database, move: Mover, pool: MadeUpPool
) -> None:
    pool.contract = "other:16:0"  # the pool is the domain's, the pack that is chosen is not
    with database.transaction() as session:
        create_domain(session, "people", model="other", contract="other:16:0", dimension=DIMENSION)
    for mode in ("auto", "reembed"):
        with pytest.raises(ContractMismatch, match=r"of the model pack 'other'.* 'made-up' .* is chosen"):
            move(mode=mode)
    assert (pool.asked, runs(database), gallery_of(database).template_count) == ([], [], 0)


def test_a_run_that_would_leave_nobody_is_not_called_finished(database: Database, move: Mover, images: Path) -> None:
    for path in images.rglob("*.jpg"):
        path.write_bytes(b"nobody" + path.name.encode())
    with pytest.raises(InvalidDataset, match="12 no_face"):
        move()
    assert nothing_there(database)


def _vector(image: bytes) -> np.ndarray:
    vector = made_up_face(image).embedding
    assert vector is not None
    return vector


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of pictures, and one beside it that is nobody's business."""
    root = tmp_path / "root"
    for name in ("Alice/1.jpg", "deep/Alice/1.jpg", "Bob/2.jpg", "Carol1.jpg", "C:/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/3.jpg").write_text("secret")
    (root / "Mallory").mkdir()
    (root / "Mallory/3.jpg").symlink_to(tmp_path / "secret/3.jpg")
    (root / "linked").symlink_to(tmp_path / "secret")
    (root / "Bob/same.jpg").symlink_to("2.jpg")
    return root.resolve()


@pytest.mark.parametrize(
    ("identity", "found"),
    [
        ("Alice/1.jpg", "Alice/1.jpg"),
        ("/data/faces/Alice/1.jpg", "Alice/1.jpg"),
        ("db\\deep\\Alice\\1.jpg", "deep/Alice/1.jpg"),
        ("D:\\photos\\Bob\\2.jpg", "Bob/2.jpg"),
        ("./Bob//2.jpg", "Bob/2.jpg"),
        ("Bob/same.jpg", "Bob/2.jpg"),
        ("Carol1.jpg", "Carol1.jpg"),
        ("faces/Carol1.jpg", None),  # the person's folder is never left away
        ("Bob/1.jpg", None),
        ("Bob", None),  # a folder
        ("../secret/3.jpg", None),
        ("Alice/../Bob/2.jpg", None),
        ("..\\secret\\3.jpg", None),
        ("Mallory/3.jpg", None),
        ("linked/3.jpg", None),
        ("", None),
        ("/", None),
        ("Bob/2.jpg\0.png", None),
        ("x/" * 5000 + "Bob/2.jpg", "Bob/2.jpg"),
        ("Bob/" + "2" * 5000, None),
        ("/etc/passwd", None),
    ],
)
def test_which_file_a_path_of_a_dataset_names(tree: Path, identity: str, found: str | None) -> None:
    wanted = None if found is None else tree / found
    assert find_picture(tree, identity) == wanted
