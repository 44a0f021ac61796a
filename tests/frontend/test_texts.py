"""The pages in other languages."""

import re
import subprocess

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from app import create_app
from app.config import parse_settings
from app.frontend import static_files, texts
from tests.service.running import ROOT


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The application with a Polish catalogue, which has three forms of plurals."""
    catalogue = Catalog("pl", domain="pages")
    catalogue.add("Sign in", "Zaloguj się")
    catalogue.add(("{number} face", "{number} faces"), ("{number} twarz", "{number} twarze", "{number} twarzy"))
    folder = tmp_path / "translations/pl/LC_MESSAGES"
    folder.mkdir(parents=True)
    with (folder / "pages.mo").open("wb") as stream:
        write_mo(stream, catalogue)
    monkeypatch.setattr(texts, "_FOLDER", tmp_path / "translations")
    for cached in (texts.languages, texts._catalogue, texts._digest):
        cached.cache_clear()
    yield create_app(parse_settings(storage_dir=tmp_path)).test_client()
    for cached in (texts.languages, texts._catalogue, texts._digest):
        cached.cache_clear()


def test_the_browsers_language_is_taken_where_there_is_a_catalogue_of_it(client):
    polish = client.get("/sign-in", headers={"Accept-Language": "pl-PL,pl;q=0.9,en;q=0.5"})
    assert '<html lang="pl"' in polish.text
    assert "<h1>Zaloguj się</h1>" in polish.text
    assert "API key" in polish.text  # what nobody has translated
    for other in ("de", "en,pl;q=0.5", "", "*", "x" * 1000, "pl;q=x"):
        answer = client.get("/sign-in", headers={"Accept-Language": other})
        assert answer.status_code == 200
        assert '<html lang="en"' in answer.text, other


def test_scripts_have_the_same_texts_and_know_which_form_a_number_has(client):
    page = client.get("/sign-in", headers={"Accept-Language": "pl"}).text
    answer = client.get(re.search(r'<meta name="texts" content="([^"]+)"', page)[1])
    assert "immutable" in answer.headers["Cache-Control"]
    forms = answer.json["texts"]["{number} face"]
    assert [forms[str(answer.json["plural"][number])] for number in (1, 2, 5, 22)] == [
        "{number} twarz",
        "{number} twarze",
        "{number} twarzy",
        "{number} twarze",
    ]
    assert client.get("/texts/x/de.json").status_code == 404
    assert client.get("/texts/x/..%2Fpl.json").status_code == 401  # no such route
    assert 'name="texts"' not in client.get("/sign-in").text


def test_the_texts_of_templates_scripts_and_code_are_found():
    subprocess.run([ROOT / "scripts/texts"], check=True, capture_output=True)
    with (ROOT / "artefacts/pages.pot").open("rb") as stream:
        found = {message.id for message in read_po(stream)}
    assert {
        "Sign out",
        "Recognise",
        "Enter an API key.",
        "Not this person",
        ("{number} face", "{number} faces"),
    } <= found


def test_scripts_have_texts_in_the_form_that_is_found():
    for path in (static_files._FOLDER / "js").rglob("*.js"):
        for call in re.finditer(r"(?<![\w.])tn?\((.)", path.read_text("utf-8")):
            line = call.string[: call.start()].count("\n") + 1
            declared = call.string[: call.start()].endswith("function ")
            assert declared or call[1] == '"', f"{path.name}:{line}: the text is no literal"
