"""Domains, operations and thresholds, in a browser."""

import signal
import subprocess
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests import pictures
from tests.frontend.browsing import serious_violations, shoot, sign_in, visiting
from tests.service.running import ROOT, eventually

pytestmark = pytest.mark.service

NAME = "<img src=x onerror=alert(1)> of domains"


@pytest.fixture(scope="module")
def domain(service):
    """Of 73 photos of ten persons, migrated from DeepFace's dataset."""
    folder = pictures.SHARED / "datasets/deepface-0.0.93"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    service.flask("migrate-pkl", "--domain", NAME, "--path", str(folder))
    with service.client() as http:
        [made] = [item for item in http.get("/v1/domains?limit=500").json()["items"] if item["name"] == NAME]
        yield made
        http.delete(f"/v1/domains/{made['id']}").raise_for_status()


def key_for(service, *scopes: str, **reach) -> str:
    with service.client() as http:
        wanted = {"name": "test", "scopes": scopes} | (reach or {"domains": [NAME]})
        return http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]


def test_domains_are_listed_made_and_reported_on(page, service, domain):
    page.goto("/domains")
    page.get_by_role("link", name=NAME).click()
    report = page.locator("#report")
    expect(report.get_by_role("heading", name=NAME)).to_be_visible()
    for words in ("Persons10", "Templates73", "weights: CC0", "valid", "73 of 73 rows (100%)"):
        expect(report).to_contain_text(words)
    shoot(page, "domains")
    assert serious_violations(page) == []
    page.get_by_label("New domain").fill("made by <b>hand</b>")
    page.get_by_role("button", name="Create").click()
    try:
        expect(report.get_by_role("heading", name="made by <b>hand</b>")).to_be_visible()
        page.watcher.expect_status(409)
        page.get_by_label("New domain").fill(NAME)
        page.get_by_role("button", name="Create").click()
        expect(page.locator("#name-wrong")).to_contain_text("exists already")
        shoot(page, "domains-wrong")
        assert serious_violations(page) == []
        page.reload()  # the address knows which domain it was
        expect(report.get_by_role("heading", name="made by <b>hand</b>")).to_be_visible()
        expect(report).to_contain_text("Templates0")
    finally:
        with service.client() as http:
            [made] = [
                item for item in http.get("/v1/domains?limit=500").json()["items"] if item["name"].startswith("made by")
            ]
            http.delete(f"/v1/domains/{made['id']}").raise_for_status()


def test_a_domain_that_is_not_there_says_so(page):
    page.watcher.expect_status(404)
    page.goto("/domains?domain=nowhere")
    expect(page.locator("#report")).to_contain_text("no domain named 'nowhere'")


def test_operations_show_pool_jobs_and_decisions(page, service, domain):
    photo = pictures.lfw10()["Tony_Blair"][8].read_bytes()
    with service.client() as http:
        for _ in range(2):
            http.post("/recognize", data={"domain": NAME}, files={"file": photo}).raise_for_status()
        http.post(
            f"/v1/domains/{domain['id']}/persons",
            data={"label": "old photo"},
            files={"file": pictures.faceless()},
        ).raise_for_status()
    page.goto("/operations")
    page.get_by_label("Domain", exact=True).select_option(NAME)
    pool = page.locator("#pool")
    expect(pool.get_by_role("row", name="dlib-1")).to_contain_text("dlib")
    expect(pool).to_contain_text("ok: ")
    expect(pool).to_contain_text("Workers replaced")
    expect(page.locator("#service")).to_contain_text("ready")
    expect(page.locator("#decisions")).to_contain_text("identified (1:N)")
    expect(page.locator("#decisions li").first).to_contain_text("Tony_Blair")
    expect(page.locator("#migrations")).to_contain_text(NAME)
    shoot(page, "operations")
    assert serious_violations(page) == []


def test_jobs_are_cancelled_and_tried_again(page, service, domain):
    """A job as the API tells it; a real one would have ended before anybody could click."""
    job = {
        "id": "11111111-1111-4111-8111-111111111111", "kind": "import", "domain": NAME, "person_id": None,
        "state": "running", "attempts": 1, "done": 3, "total": 9, "files": None, "result": None, "error": None,
        "created_by": "admin", "created_at": "2026-01-31T12:00:00+00:00", "started_at": None, "finished_at": None,
    }  # fmt: skip
    asked = []

    def act(route):
        what = route.request.url.rpartition("/")[2]
        asked.append(what)
        assert route.request.headers["x-csrf-token"]
        job["state"] = {"cancel": "cancelled", "retry": "queued"}[what]
        route.fulfill(json=job)

    page.route("**/v1/jobs?*", lambda route: route.fulfill(json={"items": [job], "next_cursor": None}))
    page.route("**/v1/jobs/*/*", act)
    page.goto("/operations")
    page.get_by_role("button", name="Cancel import of").click()
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("button", name="Try import of").click()
    expect(page.get_by_role("button", name="Cancel import of")).to_be_visible()
    assert asked == ["cancel", "retry"]


def test_nothing_is_asked_while_it_is_paused_or_hidden(page, domain):
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/migrations" in request.url else None)
    page.clock.install()
    page.goto("/operations")
    expect(page.locator("#migrations")).to_contain_text(NAME)

    def is_asked_again() -> bool:
        before = len(asked)
        page.clock.run_for(3000)
        page.evaluate("fetch('/healthz')")  # whatever was sent before has been seen
        return len(asked) > before

    eventually(is_asked_again)
    page.get_by_role("button", name="Pause").click()
    is_asked_again()  # what had begun before
    assert not any(is_asked_again() for _ in range(20))
    page.get_by_role("button", name="Pause").click()
    eventually(is_asked_again)
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { get: () => true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    is_asked_again()
    assert not any(is_asked_again() for _ in range(20))


@contextmanager
def slowed(process):
    """In the block, the process gets a fifth of the time."""
    done = threading.Event()

    def hold():
        while not done.is_set() and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            done.wait(0.4)
            process.send_signal(signal.SIGCONT)
            done.wait(0.1)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        done.set()
        holder.join()
        process.send_signal(signal.SIGCONT)


def test_a_migration_is_watched_while_it_runs(page, service, tmp_path):
    """Its pictures are embedded anew, a few in each transaction, and the page sees it move and end."""
    pictures.lfw10()
    argv = [ROOT / ".venv/bin/flask", "--app", "wsgi", "migrate-pkl", "--domain", "moving in", "--mode", "reembed"]
    argv += ["--path", pictures.SHARED / "datasets/deepface-0.0.93", "--images", pictures.SHARED / "faces/lfw10"]
    argv += ["--batch-size", "2", "--keep-going"]
    page.watcher.expect(r"status of 503 .*/readyz\)$")  # where the pool takes its time: of this nothing is asked here
    page.goto("/operations")
    process = subprocess.Popen(argv, cwd=ROOT, env=service.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        moving = page.get_by_role("article", name="moving in")
        with slowed(process):  # the page asks every three seconds, and has to see it move twice
            expect(moving).to_contain_text("running", timeout=180_000)
            expect(moving.get_by_role("progressbar")).to_be_visible()
            expect(moving).to_contain_text("rows a second", timeout=60_000)
            shoot(page, "operations-migrating")
        assert serious_violations(page) == []
        expect(moving).to_contain_text("finished", timeout=120_000)
        expect(moving).to_contain_text("73 of 73 rows (100%)")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        with service.client() as http:
            http.delete("/v1/domains/moving in")


def test_thresholds_are_told_in_words_tables_and_charts(page, domain):
    page.goto("/threshold")
    page.get_by_label("Domain", exact=True).select_option(NAME)
    expect(page.locator("#now")).to_contain_text("4 of 2,396")
    expect(page.locator("#now")).to_contain_text("FPIR 0%")
    expect(page.locator("#now")).to_contain_text("0 of 73; below 4.1%")
    page.get_by_label("in percent").fill("30")
    expect(page.locator("#chosen")).to_contain_text("201 of 2,396")
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "30%"
    page.get_by_role("slider").fill("-2")
    expect(page.get_by_label("in percent")).to_have_value("1")
    expect(page.get_by_role("img", name="Histograms of genuine and impostor distances")).to_be_visible()
    expect(page.get_by_role("img", name="DET curves")).to_be_visible()
    shoot(page, "threshold")
    for table in page.get_by_text("As a table").all():
        table.click()
    expect(page.locator("#curve-table tbody tr").nth(5)).to_be_visible()
    expect(page.locator("#distances-table tbody tr").nth(5)).to_be_visible()
    assert serious_violations(page) == []
    page.get_by_label("Threshold (distance)").fill("0.09")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#now")).to_contain_text("62 of 2,396")


def test_what_the_key_may_not_do_is_not_offered(browser, service, domain):
    with visiting(browser, service) as page:
        sign_in(page, key_for(service, "recognize"), "/operations")
        expect(page.locator("#pool")).to_contain_text("dlib-1")  # what /readyz tells everybody
        expect(page.locator("#pool")).not_to_contain_text("Workers replaced")
        expect(page.locator("#migrations")).to_contain_text(NAME)
        for part in ("#jobs", "#decisions"):
            expect(page.locator(part)).to_have_count(0)
        page.goto("/domains")
        expect(page.get_by_role("link", name=NAME)).to_be_visible()
        expect(page.get_by_label("New domain")).to_have_count(0)
        assert serious_violations(page) == []
        expect(page.get_by_role("link", name="Threshold")).to_have_count(0)
        page.watcher.expect_status(403)
        page.goto("/threshold")
        expect(page.get_by_role("heading", name="Not with this key")).to_be_visible()
