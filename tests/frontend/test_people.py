"""The pages about people, before the running service and with real photos: what somebody does who keeps a gallery in order."""

import base64
import re
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.frontend.browsing import serious_violations, shoot, sign_in, visiting
from tests.pictures import faceless, lfw10
from tests.service.running import eventually
from tests.service.searching import superuser

pytestmark = pytest.mark.service

DOMAIN = "people / of the pages"
CROWD = "ten thousand"
HOSTILE = "<img src=x onerror=alert(1)>"
PHOTOS_EACH = 2

# What a browser makes of files that are dragged from a folder.
DRAGGED = """
(files) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  return transfer;
}
"""


@pytest.fixture(scope="module")
def api(service) -> httpx.Client:
    with service.client() as http:
        made = [http.post("/v1/domains", json={"name": name}).raise_for_status().json() for name in (DOMAIN, CROWD)]
        http.params = {}
        http.domain = f"/v1/domains/{made[0]['id']}"
        yield http
        for domain in made:
            http.delete(f"/v1/domains/{domain['id']}").raise_for_status()


@pytest.fixture(scope="module")
def desk(browser, service, api) -> Page:
    """One page of somebody who has signed in, for all tests; a script that opens a dialogue of its own is none of ours."""
    with visiting(browser, service) as opened:
        opened.on("dialog", lambda dialog: opened.watcher.seen.append(f"dialog: {dialog.message}") or dialog.dismiss())
        sign_in(opened, service.key)
        yield opened


@pytest.fixture(autouse=True)
def _nothing_wrong(desk):
    yield
    desk.watcher.check()
    assert desk.locator("img[src='x']").count() == 0


def people(api: httpx.Client) -> dict[str, dict]:
    return {p["label"]: p for p in api.get(f"{api.domain}/persons", params={"limit": 500}).json()["items"]}


def enrol(api: httpx.Client, label: str, *photos: Path) -> None:
    person = api.post(f"{api.domain}/persons", json={"label": label})
    found = person.json()["id"] if person.status_code == 201 else people(api)[label]["id"]
    files = [("file", (path.name, path.read_bytes())) for path in photos]
    assert api.post(f"{api.domain}/persons/{found}/faces", files=files).status_code == 201


def pictures_are_there(desk: Page) -> None:
    """Also those that the window does not show yet."""
    desk.locator("img.face").evaluate_all("(images) => images.forEach((image) => { image.loading = 'eager'; })")
    eventually(
        lambda: desk.locator("img.face").evaluate_all("(images) => images.every((image) => image.naturalWidth === 128)")
    )


def at(desk: Page, path: str = "", **query: str) -> None:
    desk.goto(f"/people{path}?{httpx.QueryParams({'domain': DOMAIN, **query})}")


def test_ten_persons_are_enrolled_by_dropping_their_pictures(desk: Page, api) -> None:
    at(desk, "/add")
    photos = {name: paths[:PHOTOS_EACH] for name, paths in lfw10().items()}
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for paths in photos.values() for path in paths]
    files += [["Nobody 1.jpg", base64.b64encode(faceless()).decode()], ["notes.txt", ""]]
    desk.dispatch_event(
        "#drop", "drop", {"dataTransfer": desk.evaluate_handle(DRAGGED, [f for f in files if f[0] != "notes.txt"])}
    )
    expect(desk.get_by_role("heading", name="21 pictures of 11 persons")).to_be_visible()
    shoot(desk, "people-add-plan")
    assert serious_violations(desk) == []
    desk.watcher.expect_status(422)  # of the one without a face
    desk.get_by_role("button", name="Enrol").click()
    expect(desk.locator("#progress-text")).to_have_text("21 of 21 · 20 enrolled · 1 not enrolled", timeout=120_000)
    rows = desk.locator("#results tr")
    expect(rows).to_have_count(21)
    expect(rows.filter(has_text="Nobody 1.jpg")).to_contain_text("No face was found")
    expect(desk.get_by_role("button", name="Retry what failed")).to_be_hidden()
    assert {label: person["faces"] for label, person in people(api).items()} == dict.fromkeys(photos, PHOTOS_EACH)
    shoot(desk, "people-add-results")
    assert serious_violations(desk) == []


def test_a_folder_holds_one_folder_for_each_person_whatever_they_are_called(desk: Page, api, tmp_path: Path) -> None:
    name, (first, *_) = next(iter(lfw10().items()))
    for person, photo in ((HOSTILE, first), (name, first)):
        (tmp_path / "album" / person).mkdir(parents=True)
        (tmp_path / "album" / person / "1.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "album" / HOSTILE / "notes.txt").write_text("no picture")
    at(desk, "/add")
    desk.locator("#folder").set_input_files(tmp_path / "album")
    expect(desk.get_by_role("heading", name="2 pictures of 2 persons")).to_be_visible()
    expect(desk.locator("#planned")).to_contain_text(HOSTILE)
    desk.watcher.expect_status(409)  # this one is enrolled
    desk.get_by_role("button", name="Enrol").click()
    expect(desk.locator("#progress-text")).to_contain_text("2 of 2", timeout=60_000)
    expect(desk.locator("#results tr").filter(has_text=HOSTILE)).to_contain_text("enrolled looks like")
    expect(desk.locator("#results tr").filter(has_text="was there")).to_contain_text(name)
    expect(desk.locator(".notice.warn")).to_contain_text("1 file is no picture")
    assert people(api)[HOSTILE]["faces"] == 1


@contextmanager
def held(desk: Page, address: str):
    """Answers to requests of that address come at the end of the `with`."""
    routes = []

    def hold(route) -> None:  # Playwright puts a mark on it, which a method takes none of
        routes.append(route)

    desk.route(address, hold)
    yield
    assert routes
    for route in routes:
        route.continue_()
    desk.unroute(address)


def test_nothing_is_enrolled_before_the_page_knows_where(desk: Page) -> None:
    with held(desk, "**/v1/domains?*"):
        with desk.expect_request("**/v1/domains?*"):
            at(desk, "/add")
        desk.locator("#files").set_input_files(next(iter(lfw10().values()))[4])
        expect(desk.locator("#planned li")).to_have_count(1)
        expect(desk.get_by_role("button", name="Enrol")).to_be_disabled()
    expect(desk.get_by_role("button", name="Enrol")).to_be_enabled()


def test_nothing_is_done_to_a_person_before_the_page_knows_them(desk: Page, api) -> None:
    name = next(iter(lfw10()))
    address = f"**/persons/{people(api)[name]['id']}"
    buttons = [desk.get_by_role("button", name=text) for text in ("Save", "Erase this person")]
    with held(desk, address):
        with desk.expect_request(address):
            at(desk, "/person", label=name)
        for button in buttons:
            expect(button).to_be_disabled()
    for button in buttons:
        expect(button).to_be_enabled()


def test_a_person_who_cannot_be_loaded_is_told_of_in_words(desk: Page, api) -> None:
    name = next(iter(lfw10()))
    desk.watcher.expect_status(503)
    gone = {"status": 503, "code": "database_unavailable", "title": "Database unavailable", "detail": "It is away."}
    address = f"**/persons/{people(api)[name]['id']}"
    desk.route(address, lambda route: route.fulfill(status=503, json=gone))
    at(desk, "/person", label=name)
    expect(desk.get_by_role("alert").filter(has_text="It is away.")).to_be_visible()
    expect(desk.get_by_role("button", name="Erase this person")).to_be_disabled()
    desk.unroute(address)


@pytest.mark.parametrize("path", ["", "/add", "/check"])
def test_without_the_domains_a_page_says_so(desk: Page, path: str) -> None:
    desk.watcher.expect_status(503)
    gone = {"status": 503, "code": "database_unavailable", "title": "Database unavailable", "detail": "It is away."}
    desk.route("**/v1/domains?*", lambda route: route.fulfill(status=503, json=gone))
    at(desk, path)
    expect(desk.get_by_role("alert").filter(has_text="It is away.")).to_be_visible()
    desk.unroute("**/v1/domains?*")


def test_what_failed_is_sent_again_and_enrolled_once(desk: Page, api) -> None:
    name, photos = list(lfw10().items())[1]
    at(desk, "/add", label=name)
    sent: list[str | None] = []
    desk.watcher.expect(r"net::ERR_FAILED|status of 5\d\d")

    def lose_the_first(route) -> None:
        sent.append(route.request.headers.get("idempotency-key"))
        if len(sent) > 1:
            route.continue_()
        else:
            route.abort()

    desk.route("**/faces", lose_the_first)
    desk.locator("#files").set_input_files(photos[3])
    desk.get_by_role("button", name="Enrol").click()
    expect(desk.locator("#results tr")).to_contain_text("failed The service cannot be reached")
    desk.get_by_role("button", name="Retry what failed").click()
    expect(desk.locator("#progress-text")).to_have_text("1 of 1 · 1 enrolled", timeout=60_000)
    desk.unroute("**/faces")
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert people(api)[name]["faces"] == PHOTOS_EACH + 1


def test_people_are_found_as_one_types_and_with_the_keyboard_alone(desk: Page, api) -> None:
    label = next(iter(lfw10()))
    person = people(api)[label]
    api.patch(f"{api.domain}/persons/{person['id']}", json={"display_name": "Đorđe Šćepanović"}).raise_for_status()
    at(desk)
    expect(desk.locator("#found")).to_have_text("11 persons")
    expect(desk.locator("#persons li")).to_have_count(11)
    expect(desk.locator("#persons img")).to_have_count(11)
    pictures_are_there(desk)
    shoot(desk, "people")
    assert serious_violations(desk) == []
    desk.get_by_label("Search by name").focus()
    desk.keyboard.type("dorde scep")
    expect(desk.locator("#persons li")).to_have_count(1)
    expect(desk.locator("#found")).to_have_text("1 person")
    desk.get_by_label("Search by name").fill("nobody is called so")
    expect(desk.locator("#found")).to_have_text("Nobody is called like that.")
    desk.get_by_label("Search by name").fill("dorde scep")
    expect(desk.locator("#persons li")).to_have_count(1)
    assert "q=dorde+scep" in desk.url
    desk.keyboard.press("Tab")
    desk.keyboard.press("Enter")
    expect(desk).to_have_title("Đorđe Šćepanović · Facedex")


def test_a_person_is_renamed_limited_and_loses_a_face(desk: Page, api) -> None:
    label = list(lfw10())[2]
    person = people(api)[label]
    at(desk, "/person", label=label)
    expect(desk.locator("#faces li")).to_have_count(PHOTOS_EACH)
    pictures_are_there(desk)
    shoot(desk, "person")
    assert serious_violations(desk) == []
    desk.get_by_label("Metadata (JSON)").fill("{")
    desk.get_by_role("button", name="Save").click()
    expect(desk.locator("#details-wrong")).to_have_text("The metadata is not JSON.")
    desk.get_by_label("Metadata (JSON)").fill('{"room": 12}')
    desk.get_by_label("Label", exact=True).fill(list(lfw10())[3])
    desk.watcher.expect_status(409)
    desk.get_by_role("button", name="Save").click()
    expect(desk.locator("#details-wrong")).to_contain_text("exists already")
    shoot(desk, "person-wrong")
    assert serious_violations(desk) == []
    desk.get_by_label("Label", exact=True).fill("a/b?c#d&e")
    desk.get_by_label("Name to show").fill(f"{HOSTILE} II")
    desk.get_by_label("Valid until").fill("2020-01-31T12:00:00")
    desk.get_by_role("button", name="Save").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text(f"{HOSTILE} II")
    expect(desk.locator("#badges")).to_contain_text("not valid any more")
    told = people(api)["a/b?c#d&e"]
    assert (told["id"], told["valid"], told["metadata"]) == (person["id"], False, {"room": 12})
    desk.reload()
    expect(desk.get_by_role("heading", level=1)).to_have_text(f"{HOSTILE} II")
    expect(desk.get_by_label("Valid until")).to_have_value(re.compile("2020-01-31T12:00"))
    desk.locator("#faces").get_by_role("button").first.click()
    expect(desk.get_by_role("dialog")).to_contain_text(HOSTILE)
    desk.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(desk.locator("#faces li")).to_have_count(PHOTOS_EACH - 1)
    assert people(api)["a/b?c#d&e"]["faces"] == PHOTOS_EACH - 1
    with desk.expect_download() as download:
        desk.get_by_role("link", name="Export all that is held").click()
    assert download.value.suggested_filename == f"{person['id']}.zip"


def test_two_who_are_one_are_merged_and_somebody_is_erased(desk: Page, api, service) -> None:
    kept = next(iter(lfw10()))
    at(desk, "/person", label=HOSTILE)
    expect(desk.get_by_role("button", name="Merge into them")).to_be_disabled()
    desk.get_by_label("This is the same person as").press_sequentially("scepan")
    expect(desk.get_by_role("option")).to_have_count(1)
    desk.keyboard.press("ArrowDown")
    desk.keyboard.press("Enter")
    desk.get_by_role("button", name="Merge into them").click()
    expect(desk.get_by_role("dialog")).to_contain_text(f"All that is of {HOSTILE} becomes")
    shoot(desk, "person-merge")
    assert serious_violations(desk) == []
    desk.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(desk).to_have_title("Đorđe Šćepanović · Facedex")
    assert HOSTILE not in people(api)
    assert people(api)[kept]["faces"] == PHOTOS_EACH

    thumbnails = [path.name for path in (service.storage / "images").rglob("*.thumbnail")]
    assert thumbnails
    desk.get_by_role("button", name="Erase this person").click()
    go = desk.get_by_role("dialog").get_by_role("button", name="Erase")
    expect(go).to_be_disabled()
    desk.keyboard.type("Dorde")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("dialog")).to_be_visible()
    desk.get_by_label("To go on, type").fill("Đorđe Šćepanović")
    shoot(desk, "person-erase")
    assert serious_violations(desk) == []
    go.click()
    expect(desk.get_by_role("heading", name="Erased")).to_be_focused()
    expect(desk.locator("dl")).to_contain_text("templates")
    shoot(desk, "person-erased")
    assert serious_violations(desk) == []
    assert kept not in people(api)
    desk.watcher.expect_status(404)
    at(desk, "/person", label=kept)
    expect(desk.get_by_role("main")).to_contain_text("There is no person")


def test_what_looks_wrong_is_suggested_and_mended_on_the_spot(desk: Page, api) -> None:
    one, other = list(lfw10())[4:6]
    enrol(api, HOSTILE, *lfw10()[one][4:6])  # who is there already
    enrol(api, one, lfw10()[other][6])  # somebody else
    at(desk, "/check")
    pair, wrong = desk.locator("#duplicates > li").filter(has_text=HOSTILE), desk.locator("#outliers > li")
    expect(pair).to_be_visible()
    expect(wrong.filter(has_text=f"Looks like {other[:1]}").or_(wrong.filter(has_text=other)).first).to_be_visible()
    pictures_are_there(desk)
    shoot(desk, "people-check")
    assert serious_violations(desk) == []
    faces = people(api)[one]["faces"]
    delete = wrong.filter(has_text=other).get_by_role("button", name=f"Delete this face of {one}")
    delete.click()
    desk.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(delete).to_have_count(0)
    assert people(api)[one]["faces"] == faces - 1
    pair.get_by_role("button", name=f"Keep {one}").click()
    desk.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(pair).to_have_count(0)
    assert HOSTILE not in people(api)
    assert people(api)[one]["faces"] == faces - 1 + 2


def test_ten_thousand_persons_cost_a_page_no_more_than_fifty(desk: Page, api, service) -> None:
    with superuser(service.storage) as connection:
        connection.execute(
            "INSERT INTO persons (domain_id, label, display_name)"
            " SELECT d.id, lpad(n::text, 5, '0'), 'Živa ' || n FROM domains AS d, generate_series(0, 9999) AS n"
            " WHERE d.name = %s",
            (CROWD,),
        )
    desk.goto("about:blank")
    asked: list[str] = []
    desk.on("response", lambda answer: asked.append(answer.url))
    desk.goto(f"/people?domain={CROWD}")
    expect(desk.locator("#found")).to_have_text("50 of 10,000 persons")
    assert desk.locator("#persons li").count() == 50
    assert [url.partition("?")[0].rpartition("/")[2] for url in asked if "/v1/" in url] == ["domains", "persons"]
    with desk.expect_response(lambda answer: "q=ziva+777" in answer.url) as answer:
        desk.get_by_label("Search by name").press_sequentially("ziva 777", delay=5)
    assert len(answer.value.body()) < 50_000
    expect(desk.locator("#found")).to_have_text("11 persons")
    desk.get_by_label("Search by name").fill("")
    expect(desk.locator("#found")).to_have_text("50 of 10,000 persons")
    desk.get_by_role("button", name="Show more").click()
    expect(desk.locator("#persons li")).to_have_count(100)
    expect(desk.locator("#persons li a").nth(50)).to_be_focused()
    shoot(desk, "people-many")
    desk.goto(f"/people/check?domain={CROWD}")
    expect(desk.locator("#duplicates-found")).to_contain_text("10,000 persons looked at", timeout=60_000)
    expect(desk.locator("#outliers-found")).to_contain_text("None is far", timeout=60_000)


def test_what_is_not_for_a_key_is_not_offered(browser, api, service) -> None:
    body = {"name": "desk", "domains": [DOMAIN], "scopes": ["enrol"]}
    key = api.post("/v1/keys", json=body).raise_for_status().json()
    label = list(lfw10())[5]
    with visiting(browser, service) as visitor:
        sign_in(visitor, key["key"], f"/people/person?{httpx.QueryParams({'domain': DOMAIN, 'label': label})}")
        expect(visitor.get_by_role("button", name="Erase this person")).to_be_visible()
        expect(visitor.get_by_role("link", name="Export all that is held")).to_have_count(0)
