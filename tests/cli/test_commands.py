"""Commands beside a running service, as an operator types them."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text

from app.api.wiring import build_app
from app.config import parse_settings
from app.db.session import Database
from tests import pictures
from tests.service.running import ROOT, RunningService, eventually
from tests.service.searching import superuser

pytestmark = pytest.mark.service


@pytest.fixture
def folder(tmp_path):
    """Photos as people keep them: odd names, odd files."""
    root = tmp_path / "photos"
    (root / "Eileen Collins").mkdir(parents=True)
    shutil.copy(pictures.portrait(), root / "Eileen Collins" / "astronaut.png")
    (root / "Eileen Collins" / "notes.txt").write_text("not a photo")
    (root / "Eileen Collins" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "Škoda 😀").mkdir()
    photo = Image.open(pictures.group_photo()).convert("RGB")
    photo.crop((663, 273, 900, 540)).save(root / "Škoda 😀" / "1.JPG", quality=95)
    (root / "stray.jpg").write_bytes(b"x")
    return root


@pytest.fixture
def domain(service, http):
    yield "commands"
    assert http.delete("/v1/domains/commands").status_code in (200, 404)


@pytest.fixture(scope="module")
def commands(service):
    """Commands beside the running service, in this process: a tenth of the time, where the process itself shows nothing."""
    app = build_app(parse_settings(storage_dir=service.storage))
    yield app.test_cli_runner()
    app.extensions["facedex"].database.close()


def test_enrol_reports_what_it_did_and_what_not_and_why(service, commands, folder, domain):
    done = service.flask("enrol", domain, str(folder), "--json", check=False)
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert (report["enrolled"], report["persons"], report["already_enrolled"]) == (2, 2, 0)
    assert [(Path(entry["file"]).name, entry["code"]) for entry in report["rejected"]] == [
        ("broken.jpg", "invalid_image")
    ]
    assert len(report["passed_over"]) == 2
    assert "Created domain 'commands' for model dlib." in done.stderr

    again = service.flask("enrol", domain, str(folder), check=False)
    assert again.returncode == 3
    assert "Enrolled 0 photos" in again.stdout
    assert "2 were enrolled already, 1 rejected" in again.stdout
    assert "broken.jpg" in again.stdout

    told = service.flask("recognize", domain, str(folder / "Eileen Collins/astronaut.png"))
    assert "match" in told.stdout
    assert "Eileen Collins  distance 0.0000" in told.stdout
    answer = json.loads(commands.invoke(args=("recognize", domain, str(folder / "Škoda 😀/1.JPG"), "--json")).stdout)
    assert answer["best_match"]["person_name"] == "Škoda 😀"
    shown = json.loads(commands.invoke(args=("domains", "show", domain, "--json")).stdout)
    assert (shown["persons"], shown["embeddings"], shown["index"]["state"]) == (2, 2, "valid")
    assert domain in commands.invoke(args=("domains", "list")).stdout


def test_an_interrupted_enrolment_is_taken_up_again(service, http, tmp_path, domain):
    photo = Image.open(pictures.group_photo()).convert("RGB")
    for n in range(40):  # forty photos of one person, each cut a little differently
        person = tmp_path / "photos" / f"person {n:02}"
        person.mkdir(parents=True)
        photo.crop((663 - n, 273 - n, 900 + n, 540 + n)).save(person / "photo.jpg")
    argv = [ROOT / ".venv/bin/flask", "--app", "wsgi", "enrol", domain, tmp_path / "photos", "--jobs", "1"]
    process = subprocess.Popen(argv, cwd=ROOT, env=service.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def working(service: RunningService) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'facedex%' AND state <> 'idle'"
        with superuser(service.storage) as connection:
            return connection.execute(query).fetchone()[0]

    def enrolled() -> int:
        shown = http.get(f"/v1/domains/{domain}")
        return shown.json()["embeddings"] if shown.is_success else 0

    with process:
        eventually(lambda: enrolled() >= 1)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: working(service) == 0)  # what it had told the database to commit is there
    before = enrolled()
    report = json.loads(service.flask("enrol", domain, str(tmp_path / "photos"), "--json").stdout)
    assert report["enrolled"] + report["already_enrolled"] == 40
    assert report["already_enrolled"] == before
    assert enrolled() == 40


def test_doctor_finds_nothing_wrong_with_a_healthy_service(service):
    done = service.flask("doctor")
    assert "WRONG" not in done.stdout
    for part in ("database", "schema", "extension", "indexes", "model", "pool", "disk"):
        assert part in done.stdout


def test_doctor_finds_and_mends_a_missing_index(service, commands, folder, domain):
    commands.invoke(args=("enrol", domain, str(folder)))
    info = json.loads(commands.invoke(args=("domains", "show", domain, "--json")).stdout)
    database = Database(parse_settings(storage_dir=service.storage))
    with database.maintenance() as connection:
        connection.execute(text(f"DROP INDEX {info['index']['name']}"))
    database.close()
    found = service.flask("doctor", check=False)
    assert found.returncode == 1
    assert "the index of domain 'commands' is missing" in found.stdout
    assert f"flask --app wsgi domains reindex {info['id']}" in found.stdout
    service.flask("domains", "reindex", str(info["id"]))
    assert "WRONG" not in service.flask("doctor").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("enrol", "x", "/nonexistent"), "does not exist"),
        (("recognize", "nowhere", str(pictures.portrait())), "There is no domain named 'nowhere'"),
        (("recognize", "nowhere", "/nonexistent"), "does not exist"),
        (("domains", "show", "nowhere"), "There is no domain named 'nowhere'"),
        (("domains", "create", " "), "The domain name is empty"),
        (("models", "use", "nothing"), "nothing"),
    ],
)
def test_wrong_arguments_are_one_clear_line(commands, arguments, says):
    done = commands.invoke(args=arguments)
    assert done.exit_code in (1, 2)
    assert says in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_a_photo_that_is_none_is_one_clear_line(service, tmp_path, domain, http):
    assert http.post("/v1/domains", json={"name": domain}).status_code == 201
    (tmp_path / "text.jpg").write_text("text")
    done = service.flask("recognize", domain, str(tmp_path / "text.jpg"), check=False)
    assert done.returncode == 1
    assert "not a picture" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_says_what_is_expected(commands, tmp_path, domain):
    done = commands.invoke(args=("enrol", domain, str(tmp_path)))
    assert done.exit_code == 1
    assert "one folder per person" in done.stderr


def test_without_a_service_commands_say_what_to_start(tmp_path):
    alone = RunningService(tmp_path / "storage")
    done = alone.flask("domains", "list", check=False)
    assert done.returncode == 1
    assert "scripts/serve" in done.stderr
    assert "Traceback" not in done.stderr
    commands = build_app(parse_settings(storage_dir=tmp_path / "storage")).test_cli_runner()
    done = commands.invoke(args=("recognize", "x", str(pictures.portrait())))
    assert done.exit_code == 1
    assert "scripts/serve" in done.stderr
    assert isinstance(done.exception, SystemExit)
    found = commands.invoke(args=("doctor",))
    assert found.exit_code == 1
    assert found.stdout.count("WRONG") >= 3


def test_a_wrong_setting_is_one_clear_line(service):
    env = {**service.env, "PORT": "eighty"}
    done = subprocess.run(
        [ROOT / ".venv/bin/flask", "--app", "wsgi", "doctor"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "PORT" in done.stderr
    assert "Traceback" not in done.stderr
