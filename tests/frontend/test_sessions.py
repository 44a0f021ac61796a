"""What a browser's session opens, and to whom; asked of the application itself."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.api import browser_session
from app.config import parse_settings
from app.keys.admin_key import create_admin_key

ORIGIN = {"Origin": "http://localhost"}
HTTPS = "https://localhost"


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Flask:
    settings = parse_settings(storage_dir=tmp_path_factory.mktemp("storage"), auth_failures_per_minute=100_000)
    create_admin_key(settings.admin_key_file)
    app = create_app(settings)
    app.config["key"] = settings.admin_key_file.read_text().strip()
    app.config["pages_key"] = settings.pages_key_file
    return app


@pytest.fixture
def client(app) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def signed_in(app, client) -> tuple[FlaskClient, str]:
    """A browser that has signed in, and the token of its pages."""
    assert sign_in(client, app.config["key"]).status_code == 303
    return client, token_of(client)


def sign_in(client: FlaskClient, key: str, headers: dict[str, str] | None = None, **more):
    return client.post("/sign-in", data={"key": key, **more.pop("data", {})}, headers=headers or ORIGIN, **more)


def token_of(client: FlaskClient) -> str:
    return re.search(r'<meta name="csrf-token" content="([^"]+)">', client.get("/").text)[1]


def test_the_cookie_is_for_the_browser_alone_and_tells_nothing(app, client):
    cookie = sign_in(client, app.config["key"]).headers["Set-Cookie"]
    name, value = cookie.partition(";")[0].split("=", 1)
    assert name == "facedex"
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert 0 < int(re.search(r"Max-Age=(\d+)", cookie)[1]) <= 12 * 3600
    assert app.config["key"] not in value
    assert app.config["pages_key"].stat().st_mode & 0o777 == 0o600


def test_over_https_the_cookie_is_kept_to_https_and_to_this_host(app, client):
    answer = sign_in(client, app.config["key"], {"Origin": HTTPS}, base_url=HTTPS)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-facedex=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert client.get("/", base_url=HTTPS).status_code == 200
    assert client.get("/").status_code == 303  # the other name is not read


def test_installations_beside_one_another_do_not_take_each_others_cookies(app, client):
    there = "http://localhost:8001"
    assert sign_in(client, app.config["key"], {"Origin": there}, base_url=there).status_code == 303
    assert client.get("/").status_code == 303
    assert client.get("/", base_url=there).status_code == 200


def test_a_key_typed_over_plain_http_is_warned_of(client):
    warning = "This connection is not encrypted"
    assert warning in client.get("/sign-in", base_url="http://faces.example").text
    for local in ("http://localhost", "http://127.0.0.1:8000", "http://[::1]:8000", "https://faces.example"):
        assert warning not in client.get("/sign-in", base_url=local).text


def test_the_same_key_twice_is_two_sessions(app, client):
    cookies = [sign_in(client, app.config["key"]).headers["Set-Cookie"] for _ in range(2)]
    assert cookies[0] != cookies[1]


def test_a_changed_cookie_opens_nothing(app, client):
    cookie = sign_in(client, app.config["key"]).headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    flipped = cookie[:40] + ("B" if cookie[40] == "A" else "A") + cookie[41:]
    for changed in (flipped, cookie[:-6] + "AAAA==", cookie[4:], "", "=", "ü", "A" * 4000):
        other = app.test_client()
        other.set_cookie("facedex", changed)
        assert other.get("/v1/no-such-thing").status_code == 401, changed


def test_another_installations_cookie_opens_nothing(app, client, tmp_path):
    settings = parse_settings(storage_dir=tmp_path)
    settings.admin_key_file.write_text(app.config["key"])  # even where the key is the same
    other = create_app(settings).test_client()
    sign_in(client, app.config["key"])
    other.set_cookie("facedex", client.get_cookie("facedex").value)
    assert other.get("/").status_code == 303


def test_a_session_has_an_end(signed_in, monkeypatch):
    client, _ = signed_in
    now = browser_session.time.time()
    monkeypatch.setattr(browser_session.time, "time", lambda: now + 12 * 3600 - 60)
    assert client.get("/").status_code == 200
    monkeypatch.setattr(browser_session.time, "time", lambda: now + 12 * 3600 + 1)
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")


def test_a_session_ends_with_its_key():
    sessions = browser_session.BrowserSessions(None)
    now = browser_session.time.time()
    assert sessions.begin("key", now + 60).ends_at == now + 60
    assert sessions.begin("key", None).ends_at > now + 3600


def test_what_changes_something_needs_the_pages_token(signed_in, app):
    client, token = signed_in
    stranger = app.test_client()
    sign_in(stranger, app.config["key"])
    for given in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "x" * 43}, {"X-CSRF-Token": token_of(stranger)}):
        answer = client.post("/v1/detect", headers=ORIGIN | given)
        assert (answer.status_code, answer.json["code"]) == (403, "csrf_token_wrong"), given
        assert answer.content_type == "application/problem+json"
    answer = client.post("/v1/detect", headers=ORIGIN | {"X-CSRF-Token": token})
    assert answer.json["code"] == "empty_upload"


def test_the_token_is_no_field_of_the_apis_forms(signed_in):
    client, token = signed_in
    answer = client.post("/v1/detect", headers=ORIGIN, data={"csrf_token": token})
    assert answer.json["code"] == "csrf_token_wrong"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_pages_act_with_no_session_even_with_its_token(signed_in, headers):
    client, token = signed_in
    answer = client.post("/v1/detect", headers={"X-CSRF-Token": token, **headers})
    assert (answer.status_code, answer.json["code"]) == (403, "origin_not_allowed")


def test_other_sites_pages_read_nothing_by_the_cookie_and_may_link_to_pages(signed_in):
    client, _ = signed_in
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/v1/domains", headers=cross).json["code"] == "origin_not_allowed"
    assert client.get("/", headers=cross).status_code == 200


def test_a_key_in_a_header_goes_before_the_cookie_and_needs_no_token(signed_in, app):
    client, _ = signed_in
    key = {"x-api-key": app.config["key"], "Origin": "http://elsewhere.example"}
    assert client.post("/v1/detect", headers=key).json["code"] == "empty_upload"
    assert client.post("/v1/detect", headers={"x-api-key": "wrong"}).status_code == 401


def test_signing_in_is_for_this_installations_own_form(app, client):
    for headers in (
        {"X-Nothing": "told"},
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = sign_in(client, app.config["key"], headers)
        assert answer.status_code == 403, headers
        assert "Set-Cookie" not in answer.headers
    assert sign_in(client, app.config["key"], {"Sec-Fetch-Site": "same-origin"}).status_code == 303


@pytest.mark.parametrize(
    "wanted",
    [
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "/\\elsewhere.example",
        "\\\\elsewhere.example",
        "/\t/elsewhere.example",
        "javascript:alert(1)",
        "/sign-in",
        "/sign-out",
        "/v1/domains",
        "/metrics",
        "/no-such-page",
        "/static/x/css/app.css",
        "",
    ],
)
def test_signing_in_leads_to_pages_only(app, client, wanted):
    answer = sign_in(client, app.config["key"], data={"next": wanted})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_signing_in_leads_to_the_page_that_was_wanted(app, client):
    assert client.get("/?domain=a%26b%20c").headers["Location"] == "/sign-in?next=/?domain%3Da%2526b%2520c"
    answer = sign_in(client, app.config["key"], data={"next": "/?domain=a%26b%20c"})
    assert answer.headers["Location"] == "/?domain=a%26b%20c"


@pytest.mark.parametrize("key", ["", " ", "x", "fdx_" + "a" * 60, "k" * 501, "\0", "ü"])
def test_a_wrong_key_is_told_in_words_and_not_repeated(client, key):
    answer = sign_in(client, key)
    assert answer.status_code in (400, 403)
    assert 'role="alert"' in answer.text
    assert "Set-Cookie" not in answer.headers
    assert len(key) < 2 or key not in answer.text


def test_guesses_are_counted_and_looking_at_the_form_is_none(tmp_path):
    settings = parse_settings(storage_dir=tmp_path, auth_failures_per_minute=2)
    create_admin_key(settings.admin_key_file)
    client = create_app(settings).test_client()
    assert [client.get(path).status_code for path in ("/", "/sign-in", "/", "/")] == [303, 200, 303, 303]
    answers = [sign_in(client, "wrong") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [403, 403, 429]
    assert "requests a minute" in answers[-1].text
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert sign_in(client, settings.admin_key_file.read_text().strip()).status_code == 303


def test_signing_out_needs_the_token_and_forgets_the_cookie(signed_in):
    client, token = signed_in
    refused = client.post("/sign-out", headers=ORIGIN)
    assert (refused.status_code, refused.mimetype) == (403, "text/html")
    assert client.get("/").status_code == 200
    answer = client.post("/sign-out", headers=ORIGIN, data={"csrf_token": token})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
    assert answer.headers["Clear-Site-Data"] == '"cache"'
    assert client.get_cookie("facedex") is None


def test_browsers_get_pages_of_what_is_not_there_and_programs_problems(signed_in, app):
    client, _ = signed_in
    page = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert client.get("/no-such-page", headers=page).mimetype == "text/html"
    assert client.get("/no-such-page").json["code"] == "not_found"
    nobody = app.test_client()
    assert nobody.get("/no-such-page", headers=page).status_code == 303
    assert nobody.get("/no-such-page").json["code"] == "unauthenticated"
    assert nobody.get("/v1/domains", headers=page).json["code"] == "unauthenticated"


def test_every_page_says_what_may_run_in_it(signed_in, app):
    client, _ = signed_in
    nobody = app.test_client()
    answers = [
        client.get("/"),
        nobody.get("/sign-in"),
        nobody.get("/"),
        client.get("/x", headers={"Accept": "text/html"}),
    ]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", answer.text)
    assert "Content-Security-Policy" not in client.get("/docs/swagger").headers
