"""The page that recognises pictures, in a browser, with the people of lfw10."""

import base64
import io
import re
from urllib.parse import quote

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests import pictures
from tests.frontend.browsing import SCREENS, serious_violations, shoot, sign_in, visiting
from tests.service.running import RunningService

pytestmark = pytest.mark.service

DOMAIN = 'seen & "drawn" <b>'
HOSTILE = "<img src=x onerror=alert(1)>"
STRANGER = "Vladimir_Putin"
FIRST_PAGE_BYTES = 150_000


@pytest.fixture(scope="module")
def people(service) -> dict:
    """Nine persons of the ten, by three pictures each, in a domain whose name is any text."""
    people = pictures.lfw10()
    with service.client() as client:
        domain = client.post("/v1/domains", json={"name": DOMAIN}).raise_for_status().json()["id"]
        for name, photos in people.items():
            if name != STRANGER:
                files = [("file", (photo.name, photo.read_bytes())) for photo in photos[:3]]
                client.post(f"/v1/domains/{domain}/persons/{name}/faces", files=files).raise_for_status()
    return people


@pytest.fixture
def recognising(page, people) -> Page:
    page.goto(f"/?domain={quote(DOMAIN)}")
    expect(page.get_by_label("Domain")).to_have_value(DOMAIN)
    return page


def choose(page: Page, *photos) -> None:
    page.locator("#files").set_input_files(list(photos))


def shown(page: Page, name: str) -> Locator:
    """What the page has about the picture of that name."""
    return page.locator("#pictures > li").filter(has=page.get_by_role("heading", name=name))


def drawn(box: Locator) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box as it is drawn, as shares of the picture that it lies on."""
    box.evaluate("box => box.closest('.frame').querySelector('img').decode()")
    return tuple(
        box.evaluate(
            """box => {
                const [inner, outer] = [box, box.closest(".frame").querySelector("img")].map(e => e.getBoundingClientRect());
                return [(inner.x - outer.x) / outer.width, (inner.y - outer.y) / outer.height,
                        inner.width / outer.width, inner.height / outer.height];
            }"""
        )
    )


def is_around_the_face(box: Locator) -> bool:
    """The people of lfw10 look at us from the middle of their pictures."""
    left, top, width, height = drawn(box)
    return (
        left > 0.15
        and left + width < 0.85
        and top > 0.15
        and top + height < 0.9
        and 0.25 < width < 0.6
        and left < 0.5 < left + width
        and top < 0.5 < top + height
    )


def test_three_pictures_are_recognised_with_boxes_around_the_faces(recognising, people):
    names = ["Tony_Blair", "Hugo_Chavez", "Colin_Powell"]
    choose(recognising, *(people[name][7] for name in names))
    for name in names:
        picture = shown(recognising, people[name][7].name)
        box = picture.locator(".box.match")
        expect(box).to_contain_text(name)
        expect(box).to_contain_text("%")
        assert is_around_the_face(box), (name, drawn(box))
        face = picture.locator(".face.match")
        expect(face.get_by_role("heading", name=name)).to_be_visible()
        expect(face.locator(".badge")).to_have_text("Match")
        expect(picture.locator(".how summary")).to_contain_text("the database (pgvector)")
    expect(recognising.locator("#queue-text")).to_have_text("3 pictures")
    picture.locator(".how summary").click()
    expect(picture.get_by_role("row", name="Searching")).to_be_visible()
    picture.get_by_text("Candidates").click()
    expect(picture.locator(".candidates li")).not_to_have_count(0)
    shoot(recognising, "recognise")
    assert serious_violations(recognising) == []


def test_a_picture_lies_as_its_camera_was_held_and_so_do_the_boxes(recognising, people):
    image = Image.open(people["Tony_Blair"][8])
    wide = Image.new("RGB", (400, 250))
    wide.paste(image, (150, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise, for whoever looks
    stream = io.BytesIO()
    wide.transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", exif=exif, quality=95)
    choose(recognising, {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": stream.getvalue()})
    box = shown(recognising, "turned.jpg").locator(".box")
    expect(box).to_contain_text("Tony_Blair")
    left, _, width, _ = drawn(box)
    assert left > 150 / 400
    assert abs(left + width / 2 - 275 / 400) < 0.06


# Whether the page took the event for itself: else the browser goes where the file is.
DRAG = """([data, kind]) => {
    const made = new DataTransfer();
    const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    made.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
    const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: made });
    return !document.querySelector("#drop").dispatchEvent(event);
}"""


def in_base64(photo) -> str:
    return base64.b64encode(photo.read_bytes()).decode()


def test_pictures_that_are_dropped_before_the_domains_are_here_wait_for_them(page, people):
    held = []

    def hold(route) -> None:  # Playwright puts a mark on it, which a method takes none of
        held.append(route)

    page.route("**/v1/domains?*", hold)
    with page.expect_request("**/v1/domains?*"):
        page.goto(f"/?domain={quote(DOMAIN)}")
    data = in_base64(people["Ariel_Sharon"][8])
    page.wait_for_function(DRAG, arg=[data, "dragover"])
    assert page.evaluate(DRAG, [data, "drop"])
    expect(page.locator("#pictures > li")).to_have_count(0)
    assert held
    for route in held:
        route.continue_()
    expect(shown(page, "dropped.jpg").locator(".box.match")).to_contain_text("Ariel_Sharon")


def test_without_the_domains_a_picture_is_refused_in_words(page, people):
    page.watcher.expect_status(500)
    page.route(
        "**/v1/domains?*", lambda route: route.fulfill(status=500, json={"status": 500, "title": "Internal error"})
    )
    page.goto("/")
    data = in_base64(people["Ariel_Sharon"][8])
    page.wait_for_function(DRAG, arg=[data, "dragover"])
    assert page.evaluate(DRAG, [data, "drop"])
    expect(page.get_by_role("alert").filter(has_text="The domains cannot be loaded")).to_be_visible()


def test_pictures_are_dropped_and_pasted_too(recognising, people):
    data = in_base64(people["Ariel_Sharon"][8])
    assert recognising.evaluate(DRAG, [data, "drop"])
    recognising.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
            const made = new DataTransfer();
            made.items.add(new File([bytes], "pasted.jpg", { type: "image/jpeg" }));
            const paste = { bubbles: true, cancelable: true, clipboardData: made };
            document.body.dispatchEvent(new ClipboardEvent("paste", paste));
        }""",
        data,
    )
    for name in ("dropped.jpg", "pasted.jpg"):
        expect(shown(recognising, name).locator(".box.match")).to_contain_text("Ariel_Sharon")


def test_somebody_unknown_is_enrolled_right_there_and_any_name_is_just_text(recognising, people):
    asked = []
    recognising.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    photo, other = people[STRANGER][2], people[STRANGER][8]
    choose(recognising, photo)
    picture = shown(recognising, photo.name)
    expect(picture.locator(".badge").first).to_have_text("Unknown")
    expect(picture.locator(".box.unknown")).to_be_visible()
    picture.get_by_role("button", name="Enrol this face as…").click()
    dialog = recognising.get_by_role("dialog", name="Enrol this face")
    field = dialog.get_by_role("combobox", name="Name")
    field.fill("tony")
    expect(dialog.get_by_role("option", name="Tony_Blair")).to_be_visible()
    shoot(recognising, "recognise-enrol", whole=False)
    assert serious_violations(recognising) == []
    field.press("ArrowDown")
    expect(field).to_have_attribute("aria-activedescendant", re.compile(".+"))
    field.press("Enter")
    expect(field).to_have_value("Tony_Blair")
    field.fill(HOSTILE)
    dialog.get_by_role("button", name="Enrol", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(picture.locator(".face.match").get_by_role("heading", name=HOSTILE)).to_be_visible()
    choose(recognising, other)
    expect(shown(recognising, other.name).locator(".box .label")).to_contain_text(HOSTILE)
    assert recognising.locator("img[src=x]").count() == 0
    shoot(recognising, "recognise-hostile")
    assert asked == []


def test_a_wrong_match_is_corrected(recognising, people):
    photo = people["Jacques_Chirac"][8]
    choose(recognising, photo)
    picture = shown(recognising, photo.name)
    expect(picture.locator(".face.match").get_by_role("heading", name="Jacques_Chirac")).to_be_visible()
    picture.get_by_role("button", name="Not this person").click()
    dialog = recognising.get_by_role("dialog", name="Not Jacques_Chirac?")
    dialog.get_by_role("button", name="Not this person").click()
    expect(dialog).to_be_hidden()
    expect(picture.locator(".face.unknown")).to_be_visible()
    expect(picture).to_be_focused()
    expect(picture.locator(".face")).not_to_contain_text("Jacques_Chirac")


def test_a_face_that_could_be_either_of_two_is_told_so(page, service, people):
    photo = people["Gerhard_Schroeder"][0]
    with service.client() as client:
        domain = client.post("/v1/domains", json={"name": "twins"}).raise_for_status().json()["id"]
        for twin in ("Castor", "Pollux"):
            sent = client.post(f"/v1/domains/{domain}/persons/{twin}/faces", files={"file": photo.read_bytes()})
            sent.raise_for_status()
    page.goto("/?domain=twins")
    choose(page, photo)
    picture = shown(page, photo.name)
    expect(picture.locator(".badge")).to_have_text("Ambiguous")
    expect(picture.locator(".box.ambiguous")).to_contain_text(re.compile("Castor or Pollux|Pollux or Castor"))
    expect(picture.get_by_role("button", name=re.compile("^Not (Castor|Pollux)$"))).to_have_count(2)
    expect(picture.locator(".candidates li")).to_have_count(2)
    shoot(page, "recognise-ambiguous")
    assert serious_violations(page) == []


def test_another_service_in_place_of_the_chosen_one_is_told_with_the_reason(recognising, service, people):
    photo = people["Tony_Blair"][9]
    with service.client() as client:
        told = client.post("/recognize", data={"domain": DOMAIN}, files={"file": photo.read_bytes()}).json()
    told |= {"mode": "pkl", "fallback_reason": "database_unavailable"}
    recognising.route("**/recognize", lambda route: route.fulfill(json=told))
    choose(recognising, photo)
    picture = shown(recognising, photo.name)
    picture.get_by_text("by the dataset (PKL)").click()
    expect(picture.get_by_text("the database cannot be reached")).to_be_visible()
    expect(picture.get_by_role("button", name="Not this person")).to_have_count(0)  # a write is answered by no fallback


def test_several_faces_are_told_apart_and_reached_by_keyboard(recognising):
    photo = pictures.group_photo()
    choose(recognising, photo)
    picture = shown(recognising, photo.name)
    expect(picture.locator(".status")).to_contain_text("6 faces")
    expect(picture.locator(".box")).to_have_count(6)
    second = picture.locator(".box").nth(1)
    second.focus()
    recognising.keyboard.press("Enter")
    expect(picture.locator(".face").nth(1)).to_be_focused()
    expect(second).to_have_class(re.compile("lit"))
    shoot(recognising, "recognise-several")


def test_what_cannot_be_used_is_told_in_words(recognising):
    recognising.watcher.expect_status(422)
    choose(
        recognising,
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"},
        {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff\xe0 nothing of a picture"},
        {"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""},
        {"name": "nobody.jpg", "mimeType": "image/jpeg", "buffer": pictures.faceless()},
    )
    expect(shown(recognising, "notes.txt").get_by_role("alert")).to_contain_text("JPEG, PNG, WebP and BMP")
    expect(shown(recognising, "empty.jpg").get_by_role("alert")).to_contain_text("empty")
    expect(shown(recognising, "broken.jpg").get_by_role("alert")).to_contain_text("picture")
    expect(shown(recognising, "nobody.jpg").locator(".status")).to_have_text("No face was found on this picture.")
    shoot(recognising, "recognise-errors")
    assert serious_violations(recognising) == []
    shown(recognising, "notes.txt").get_by_role("button", name="Remove notes.txt").click()
    expect(shown(recognising, "notes.txt")).to_have_count(0)
    recognising.get_by_role("button", name="Remove all").click()
    expect(recognising.locator("#pictures > li")).to_have_count(0)


def test_a_service_that_cannot_be_reached_is_told_and_asked_again(recognising, people):
    recognising.watcher.expect("Failed to load resource")
    recognising.route("**/recognize", lambda route: route.abort())
    choose(recognising, people["Tony_Blair"][9])
    picture = shown(recognising, people["Tony_Blair"][9].name)
    expect(picture.get_by_role("alert")).to_contain_text("cannot be reached")
    recognising.unroute("**/recognize")
    picture.get_by_role("button", name="Try again").click()
    expect(picture.locator(".box.match")).to_contain_text("Tony_Blair")


def test_progress_is_shown_and_a_busy_service_asked_again_when_it_says(recognising, people):
    recognising.watcher.expect_status(503)
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        held.append(route)

    recognising.route("**/recognize", hold_the_first)
    photo = people["Donald_Rumsfeld"][9]
    with recognising.expect_request("**/recognize"):
        choose(recognising, photo)
    picture = shown(recognising, photo.name)
    expect(picture.get_by_role("progressbar")).to_be_visible()
    expect(picture.locator(".status")).to_contain_text(re.compile("Uploading|Looking"))
    expect(recognising.locator("#queue-text")).to_have_text("1 picture to go")
    busy = {"status": 503, "code": "pool_busy", "title": "All workers are busy", "detail": "All workers are busy."}
    held[0].fulfill(status=503, json=busy, headers={"Retry-After": "0", "Content-Type": "application/problem+json"})
    expect(picture.locator(".box.match")).to_contain_text("Donald_Rumsfeld")
    expect(picture.get_by_role("progressbar")).to_have_count(0)


def test_scripts_have_their_texts_in_the_pages_language(page, service):
    def with_texts(route):
        answer = route.fetch()
        meta = '<meta name="texts" content="/texts/made/pl.json"><title>'
        route.fulfill(response=answer, body=answer.text().replace("<title>", meta, 1))

    forms = {"0": "{number} obraz", "1": "{number} obrazy", "2": "{number} obrazów"}
    plural = [0 if n == 1 else 1 if n % 10 in (2, 3, 4) and n % 100 not in (12, 13, 14) else 2 for n in range(200)]
    made = {"texts": {"{number} picture": forms, "The file is empty.": "Plik jest pusty."}, "plural": plural}
    page.route(f"{service.url}/", with_texts)
    page.route("**/texts/made/pl.json", lambda route: route.fulfill(json=made))
    with service.client() as client:
        client.post("/v1/domains", json={"name": "texts"})
    page.goto("/")
    expect(page.locator("#recognise[data-ready]")).to_be_visible()
    for expected in ("1 obraz", "2 obrazy", "3 obrazy", "4 obrazy", "5 obrazów"):
        choose(page, {"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""})
        expect(page.locator("#queue-text")).to_have_text(expected)
    expect(page.get_by_role("alert").first).to_have_text("Plik jest pusty.")


def test_the_first_page_is_light(browser, service, page):
    kept = page.context.storage_state()
    sizes: dict[str, tuple[int, int]] = {}
    with visiting(browser, service, storage_state=kept) as fresh:  # nothing of the page is in its cache
        fresh.on(
            "requestfinished",
            lambda request: sizes.update(
                {request.url: (request.sizes()["responseBodySize"], len(request.response().body()))}
            ),
        )
        fresh.goto("/", wait_until="networkidle")
        expect(fresh.locator("#recognise")).to_have_attribute("data-ready", "")
    assert any(url.endswith("/js/recognise/page.js") for url in sizes)
    sent, plain = (sum(size[place] for size in sizes.values()) for place in (0, 1))
    assert sent < plain < FIRST_PAGE_BYTES
    SCREENS.mkdir(parents=True, exist_ok=True)
    (SCREENS / "first-page.txt").write_text(f"{len(sizes)} requests, {sent} bytes sent, {plain} bytes unpacked\n")


def make_key(service: RunningService, *scopes: str) -> dict:
    with service.client() as client:
        body = {"name": "browser", "scopes": list(scopes), "every_domain": True}
        return client.post("/v1/keys", json=body).raise_for_status().json()


def test_a_key_is_offered_what_it_may_do_and_its_end_is_the_sessions(browser, service, people):
    made = make_key(service, "recognize")
    with visiting(browser, service) as page:
        page.watcher.expect_status(401, 403)
        sign_in(page, made["key"])
        page.goto(f"/?domain={quote(DOMAIN)}")
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Recognise", "Domains", "Operations"])
        photo = people["Hugo_Chavez"][9]
        choose(page, photo)
        expect(shown(page, photo.name).locator(".box.match")).to_contain_text("Hugo_Chavez")
        expect(page.get_by_role("button", name="Enrol this face as…")).to_have_count(0)
        expect(page.get_by_role("button", name="Not this person")).to_have_count(1)
        with service.client() as client:
            client.delete(f"/v1/keys/{made['id']}").raise_for_status()
        choose(page, people["Hugo_Chavez"][8])
        expect(page.locator("#notices").get_by_role("alert")).to_contain_text("Your session has ended.")
        page.get_by_role("link", name="Sign in again").click()
        expect(page).to_have_title("Sign in · Facedex")
        page.get_by_label("API key").fill(made["key"])
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("revoked")


def test_light_and_dark_are_kept(browser, service):
    with visiting(browser, service, color_scheme="light") as page:
        page.goto("/sign-in")
        page.get_by_role("button", name="Light or dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_the_keyboard_begins_with_a_way_to_the_content(page):
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    skip.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_signing_out_ends_the_session(page):
    expect(page.locator("#recognise[data-ready]")).to_be_visible()  # nothing is asked any more
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in · Facedex")
    page.goto("/")
    expect(page).to_have_title("Sign in · Facedex")
