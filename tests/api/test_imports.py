"""Uploads that are no imports, at the application itself."""

import io

import pytest
from sqlalchemy import text

from app.api.wiring import build_app
from app.db.session import Database
from app.keys.admin_key import create_admin_key
from app.tenancy import everything, set_reach
from tests.db_server import Maker, random_units
from tests.service.jobs_support import zip_of

IMPORTS = "/v1/domains/people/imports"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def send(database_settings, database: Database, make_gallery: Maker, tmp_path):
    make_gallery("people", random_units(1, 8))
    limits = {"max_import_files": 3, "max_import_bytes": 20_000}
    settings = database_settings.model_copy(update={"storage_dir": tmp_path, **limits})
    create_admin_key(settings.admin_key_file)
    app = build_app(settings)
    headers = {"x-api-key": settings.admin_key_file.read_text().strip()}
    yield lambda **options: app.test_client().post(IMPORTS, headers=headers, **options)
    app.extensions["facedex"].database.close()
    set_reach(everything("test"))


def files(*named: tuple[str, bytes]) -> dict:
    return {"data": {"file": [(io.BytesIO(data), name) for name, data in named]}}


def stored(database: Database) -> list[int]:
    set_reach(everything("test"))
    with database.transaction() as session:
        return [session.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("jobs", "job_files")]


def test_what_is_no_import_is_refused_and_stores_nothing(send, database: Database) -> None:
    packed = zip_of(("Ana/1.png", PNG + bytes(30_000)))
    assert len(packed) < 1000
    broken = {"data": b"--x\r\nno headers", "content_type": "multipart/form-data; boundary=x"}
    for options, status, code in (
        ({}, 400, "empty_upload"),
        ({"json": {"file": "x"}}, 400, "empty_upload"),
        ({"data": PNG, "content_type": "image/png"}, 400, "empty_upload"),
        (broken, 400, "empty_upload"),
        ({"data": {"file": "a text"}}, 400, "empty_upload"),
        (files((".DS_Store", b"x")), 400, "empty_upload"),
        (files(*((f"Ana/{n}.png", PNG) for n in range(4))), 413, "import_too_large"),
        (files(("Ana/1.png", bytes(400_000))), 413, "import_too_large"),
        (files(("people.zip", packed)), 413, "import_too_large"),
        (files(("people.zip", packed[:-8])), 422, "invalid_archive"),
        ({**files(("Ana/1.png", PNG)), "query_string": {"skip": "-1"}}, 422, "invalid_parameters"),
    ):
        answer = send(**options)
        assert (answer.status_code, answer.json["code"]) == (status, code), (options, answer.text)
        assert stored(database) == [0, 0]


def test_parts_of_one_request_are_kept_apart(send, database: Database) -> None:
    pictures = [PNG + bytes([number]) * 4000 for number in range(3)]
    answer = send(**files(*((f"Ana/{number}.png", data) for number, data in enumerate(pictures))))
    assert answer.status_code == 202, answer.text
    assert (answer.json["state"], answer.json["total"], answer.json["files"]["waiting"]) == ("queued", 3, 3)
    set_reach(everything("test"))
    with database.transaction() as session:
        kept = session.scalars(text("SELECT picture FROM job_files ORDER BY position")).all()
    assert [bytes(picture) for picture in kept] == pictures
