"""The commands as an operator types them, and the status report behind them."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from app.api.wiring import Services, build_app
from app.config import PROJECT_ROOT, Settings
from app.datasets.deepface import describe
from app.datasets.migrate import find_target, migrate
from app.datasets.plan import MODES, choose
from app.datasets.reembedding import Pictures
from app.datasets.report import Silent
from app.datasets.rows import DatasetRow
from app.db.domains import drop_domain, find_domain
from app.db.session import Database
from app.db.templates import delete_person
from app.embedder.client import EmbedderClient
from app.enrolment.persons import PersonService
from app.enrolment.quality import main_face
from app.errors import ContractMismatch, EmbedderUnavailable, WorkerCrashed
from app.recognition.verify import verify_migration
from tests.datasets.made_up_pool import MadeUpPool
from tests.datasets.migrating import gallery_of, order, rows_of, run, stored, write
from tests.packs import install_dlib

PERSONS = 30


@pytest.fixture(scope="module")
def models_dir(server_settings: Settings) -> Path:
    """The pack `dlib` in the storage folder that all tests of this module share."""
    server_settings.models_dir.mkdir(exist_ok=True)
    install_dlib(server_settings.models_dir)
    return server_settings.models_dir


@pytest.fixture
def flask(database_settings: Settings, models_dir: Path) -> Iterator[FlaskCliRunner]:
    app = build_app(database_settings)
    yield app.test_cli_runner()
    app.extensions["facedex"].database.close()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Of DeepFace's model Dlib: three templates of each person, near each other."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(PERSONS, 128))
    rows = [
        DatasetRow(f"db/person {n}/{m}.jpg", f"person {n}", vector.astype(np.float32), None, "dlib", "dlib")
        for n, centre in enumerate(centres)
        for m, vector in enumerate(centre + 0.1 * random.normal(size=(3, 128)))
    ]
    return write(tmp_path / "dataset", rows, model="dlib")


def call(runner: FlaskCliRunner, *arguments: object, code: int = 0) -> Result:
    result = runner.invoke(args=[str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def test_migrate_verify_show_and_export(flask: FlaskCliRunner, dataset: Path, tmp_path: Path) -> None:
    report = parsed(call(flask, "migrate-pkl", "--domain", "Škoda", "--path", dataset.parent, "--verify", "--json"))
    assert (report["rows"], report["migrated"], report["persons"], report["skipped"]) == (90, 90, PERSONS, {})
    assert (report["mode"], report["dataset"]["model"]) == ("copy", "dlib")
    assert report["verification"]["kind"] == "held out"
    assert report["verification"]["agreement_percent"] == 100.0
    assert report["verification"]["named"] == PERSONS
    assert report["verification"]["recall_at_1"] == 1.0

    shown = parsed(call(flask, "domains", "show", "Škoda", "--json"))
    assert (shown["complete"], shown["migrated_share"], shown["persons"], shown["embeddings"]) == (
        True,
        1.0,
        PERSONS,
        90,
    )
    assert (shown["migration"]["state"], shown["migration"]["migrated"]) == ("finished", 90)
    assert "100.0%" in call(flask, "domains", "show", "Škoda").stdout

    told = call(flask, "export-pkl", "--domain", "Škoda", "--path", tmp_path / "out", "--form", "npz", "--json")
    exported = parsed(told)
    assert (exported["rows"], exported["persons"]) == (90, PERSONS)
    again = call(flask, "migrate-pkl", "--domain", "again", "--path", exported["path"])
    assert "Moved 90 of 90 rows" in again.stdout


def test_a_dry_run_and_what_is_wrong_are_said_in_a_line(flask: FlaskCliRunner, dataset: Path, tmp_path: Path) -> None:
    told = call(flask, "migrate-pkl", "--domain", "x", "--path", dataset, "--dry-run")
    assert "Would move 90 of 90 rows" in told.stdout
    assert "There are no domains yet." in call(flask, "domains", "list").stdout
    other = write(tmp_path / "other", rows_of(3), model="arcface")
    refused = call(flask, "migrate-pkl", "--domain", "x", "--path", other, code=1)
    assert "would mix two models" in refused.output
    write(other.parent, rows_of(3), model="facenet")
    assert "holds 2 datasets" in call(flask, "migrate-pkl", "--domain", "x", "--path", other.parent, code=1).output
    nothing = call(flask, "migrate-pkl", "--domain", "x", "--path", dataset, "--resume", code=1)
    assert "was broken off" in nothing.output
    assert "There is no domain" in call(flask, "export-pkl", "--domain", "x", "--path", tmp_path, code=1).output


def verify(flask: FlaskCliRunner, database: Database, dataset: Path, pool: EmbedderClient, photos: Path | None) -> Any:
    """Compare the domain `people` with the dataset."""
    services: Services = flask.app.extensions["facedex"]
    pack = services.active_pack().manifest
    plan = choose(describe(dataset), find_target(database, "people", pack), pack, "auto", None)
    return verify_migration(services.settings, database, pool, services.packs, plan, photos)


def test_without_a_database_it_is_said_what_to_do_first(
    database_settings: Settings, models_dir: Path, dataset: Path, tmp_path: Path
) -> None:
    off = build_app(database_settings.model_copy(update={"vector_db_enabled": False})).test_cli_runner()
    for command, path in (("migrate-pkl", dataset), ("export-pkl", tmp_path)):
        refused = call(off, command, "--domain", "x", "--path", path, code=1)
        assert "Set VECTOR_DB_ENABLED=true and reload the service first." in refused.output


def test_verification_tells_what_differs(flask: FlaskCliRunner, dataset: Path, database: Database) -> None:
    call(flask, "migrate-pkl", "--domain", "people", "--path", dataset)
    with database.transaction() as session:
        person = PersonService(database).get("people", "person 7").id
        delete_person(session, gallery_of(database).domain_id, person)
    found = verify(flask, database, dataset, MadeUpPool(), None)
    assert (found.probes, found.agreed) == (PERSONS, PERSONS - 1)
    assert found.disagreements == [{"probe": "person 7", "pkl": "person 7", "pgvector": None}]
    assert "person 7" in found.as_text()


def test_probes_of_another_models_pool_are_not_compared(
    flask: FlaskCliRunner, dataset: Path, database: Database, tmp_path: Path
) -> None:
    call(flask, "migrate-pkl", "--domain", "people", "--path", dataset)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_bytes(b"somebody")
    with pytest.raises(ContractMismatch, match="makes none:16:0"):
        verify(flask, database, dataset, MadeUpPool(), tmp_path / "photos")


def test_the_status_of_a_migration_on_its_way(
    flask: FlaskCliRunner, dataset: Path, database: Database, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []
    manifest = flask.app.extensions["facedex"].active_pack().manifest

    class Looking(Silent):
        def stage(self, name: str, total: int | None, done: int = 0) -> None:
            self.now = name
            if name == "index":
                seen.append(parsed(call(flask, "domains", "show", "people", "--json")))

        def advance(self, rows: int) -> None:
            if self.now == "copy":
                seen.append(parsed(call(flask, "domains", "show", "people", "--json")))
                if len(seen) == 2 and not self.going_on:
                    raise KeyboardInterrupt

    looking = Looking()
    looking.going_on = False
    with pytest.raises(KeyboardInterrupt):
        migrate(order(dataset, tmp_path, pack=manifest, batch_rows=30), database, looking)
    assert [(found["complete"], found["migrated_share"]) for found in seen] == [(False, 0.3333), (False, 0.6667)]
    assert {found["migration"]["state"] for found in seen} == {"running"}
    left = parsed(call(flask, "domains", "show", "people", "--json"))
    assert (left["migration"]["state"], left["migrated_share"]) == ("interrupted", 0.6667)
    looking.going_on = True
    migrate(order(dataset, tmp_path, pack=manifest, batch_rows=30), database, looking)
    assert (seen[-1]["complete"], seen[-1]["index"]["state"]) == (False, "missing")
    assert sum(stored(database).values()) == 90


def migrations(runner: FlaskCliRunner) -> list[str]:
    """What `flask doctor` says of migrations and indexes. Of this installation other things are wrong: no pool runs."""
    lines = call(runner, "doctor", code=1).stdout.splitlines()
    return [
        f"{line} {cure.strip()}" if "→" in cure else line
        for line, cure in zip(lines, [*lines[1:], ""], strict=True)
        if "migrations" in line or "indexes" in line
    ]


class BreakingOff(Silent):
    """Looks at a domain in the middle of its migration, and then interrupts it, or lets it fail."""

    def __init__(self, look: Callable[[], object], end: BaseException) -> None:
        self.look, self.end, self.seen = look, end, None

    def stage(self, name: str, total: int | None, done: int = 0) -> None:
        self.now = name

    def advance(self, rows: int) -> None:
        if self.now in MODES:
            self.seen = self.look()
            raise self.end


@pytest.mark.parametrize(
    ("end", "said"),
    [(KeyboardInterrupt(), "was interrupted"), (EmbedderUnavailable("gone"), "failed (embedder_unavailable)")],
)
def test_doctor_tells_how_to_go_on_with_a_migration_that_was_broken_off(
    flask: FlaskCliRunner, dataset: Path, database: Database, tmp_path: Path, end: BaseException, said: str
) -> None:
    name = 'Škoda\'s $(reboot) & "others"'
    manifest = flask.app.extensions["facedex"].active_pack().manifest
    breaking = BreakingOff(lambda: migrations(flask), end)
    with pytest.raises(type(end)):
        migrate(order(dataset, tmp_path, domain=name, pack=manifest, batch_rows=30), database, breaking)
    healthy = "ok     indexes    1 domains, every index valid"
    so_far = f"30 of 90 rows of {dataset.name!r} are settled"
    assert breaking.seen == [healthy, f"ok     migrations domain {name!r}: running, {so_far}"]

    index, migration = migrations(flask)
    assert index == healthy  # it is not there yet, and there is nothing to mend
    wrong, _, cure = migration.partition(" → ")
    assert wrong == f"WRONG  migrations the migration into domain {name!r} {said}: {so_far}"
    flask_, _app, _wsgi, *arguments = shlex.split(cure.removesuffix(", where that very file lies"))
    assert flask_ == "flask"
    call(flask, *(argument.replace("FOLDER", str(dataset.parent)) for argument in arguments))
    assert gallery_of(database, name).complete
    assert migrations(flask) == [healthy]


def test_doctor_knows_how_pictures_were_embedded(flask: FlaskCliRunner, database: Database, tmp_path: Path) -> None:
    (tmp_path / "pictures/person 0").mkdir(parents=True)
    path = write(tmp_path / "arcface", rows_of(1, persons=1), model="arcface")
    (tmp_path / "pictures/person 0/0-0.jpg").write_bytes(b"crash")
    manifest = flask.app.extensions["facedex"].active_pack().manifest
    pool = MadeUpPool()
    pool.contract = manifest.contract.id
    pictures = Pictures(tmp_path / "pictures", pool, main_face, 1, 5.0, 1000, keep_going=False)
    with pytest.raises(WorkerCrashed):
        run(database, path, tmp_path, pack=manifest, pictures=pictures)
    assert f"--path FOLDER/{path.name} --mode reembed --images PICTURES --resume" in migrations(flask)[1]


def test_migrated_faces_can_be_listed_and_deleted(flask: FlaskCliRunner, dataset: Path, database: Database) -> None:
    call(flask, "migrate-pkl", "--domain", "people", "--path", dataset)
    services = flask.app.extensions["facedex"]
    page = services.faces.list("people", "person 3", limit=10, cursor=None)
    assert [face.image_sha256 for face in page.items] == [None] * 3
    services.faces.delete("people", "person 3", str(page.items[0].id))
    assert gallery_of(database).template_count == 89
    with database.transaction() as session:
        drop_domain(session, find_domain(session, "people").id)
    assert "There are no domains yet." in call(flask, "domains", "list").stdout


def test_the_script_does_the_same_without_flask(
    database_settings: Settings, models_dir: Path, dataset: Path, database: Database
) -> None:
    assert database_settings.vector_db_url is not None
    env = os.environ | {
        "STORAGE_DIR": str(database_settings.storage_dir),
        "VECTOR_DB_URL": database_settings.vector_db_url.get_secret_value(),
    }
    argv = [sys.executable, str(PROJECT_ROOT / "scripts/migrate_pkl.py"), "--domain", "people", "--path", str(dataset)]
    done = subprocess.run([*argv, "--json"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["migrated"] == 90
    assert sum(stored(database).values()) == 90
    env["VECTOR_DB_ENABLED"] = "false"
    disabled = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert disabled.returncode == 1
    assert "reload the service first" in disabled.stderr
    env["VECTOR_DB_ENABLED"] = "true"
    failed = subprocess.run([*argv, "--resume"], env=env, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: No migration of this dataset")
