"""What the pages are made of."""

import gzip
import hashlib
import re

import pytest

from app import create_app
from app.config import parse_settings
from app.frontend import static_files

VENDOR = static_files._FOLDER / "vendor"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = create_app(parse_settings(storage_dir=tmp_path_factory.mktemp("storage")))
    return app.test_client()


@pytest.fixture(scope="module")
def style(client) -> str:
    """An address as the pages have it."""
    return re.search(r'href="([^"]+/css/app\.css)"', client.get("/sign-in").text)[1]


def test_files_are_kept_for_good_under_an_address_that_changes_with_them(client, style):
    answer = client.get(style)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.content_type == "text/css; charset=utf-8"
    assert answer.data == (static_files._FOLDER / "css/app.css").read_bytes()
    of_another_version = client.get(re.sub(r"/static/\w+/", "/static/0000/", style))
    assert (of_another_version.data, of_another_version.headers["Cache-Control"]) == (answer.data, "no-store")


def test_files_are_compressed_for_whoever_takes_them_so(client, style):
    plain, zipped = client.get(style), client.get(style, headers={"Accept-Encoding": "br, gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.data) == plain.data
    assert len(zipped.data) < len(plain.data)
    refused = client.get(style, headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers
    assert {answer.headers["Vary"] for answer in (plain, zipped, refused)} == {"Accept-Encoding"}


@pytest.mark.parametrize(
    "name",
    ["../sign_in.py", "..%2Fsign_in.py", "%2e%2e/sign_in.py", "/etc/passwd", "vendor/README.md", "css", "css/", "x"],
)
def test_nothing_else_is_served(client, style, name):
    assert client.get(re.sub("css/app.css$", "", style) + name).status_code in (401, 404)


def test_what_others_have_written_is_as_it_was_published():
    rows = re.findall(r"`([^`]+)` \| ([0-9a-f]{64}) \|", (VENDOR / "README.md").read_text())
    stated = dict(rows)
    there = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.suffix in static_files._TYPES}
    assert there == set(stated)
    for name, digest in stated.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
