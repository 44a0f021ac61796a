"""A session in front of a camera that shows a film of photos."""

import time

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.frontend.browsing import CHROMIUM, FLAGS, serious_violations, shoot, sign_in, visiting
from tests.frontend.fake_camera import film, flags
from tests.pictures import lfw10
from tests.service.running import eventually

pytestmark = pytest.mark.service

DOMAIN = "live <i>camera</i>"
NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def domain(service):
    with service.client() as http:
        made = http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status().json()
        yield made
        http.delete(f"/v1/domains/{made['id']}").raise_for_status()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """With a camera that shows the photos of one person."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing; on Debian and Ubuntu: apt-get install chromium")
    path = film(tmp_path_factory.mktemp("film") / "person.mjpeg", lfw10()["Tony_Blair"])
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags(path)])
        yield launched
        launched.close()


def open_live(page, domain) -> None:
    page.goto("/live")
    page.get_by_label("Domain").select_option(domain["name"])


def begin(page, kind: str, person: str = NAME) -> None:
    page.get_by_label(kind).check()
    page.get_by_label("Person").fill(person)
    page.get_by_role("button", name="Start the camera").click()


def camera_is_off(page) -> bool:
    return page.evaluate("document.getElementById('video').srcObject === null")


def test_somebody_new_is_enrolled_and_then_verified(page, service, domain):
    open_live(page, domain)
    shoot(page, "live")
    assert serious_violations(page) == []
    begin(page, "Enrol")
    # The box is around the face, which is in the middle of the film, and drawn over the picture that it is of.
    box, view = page.wait_for_function(
        """() => {
            const box = document.getElementById("box");
            if (box.hasAttribute("hidden") || !box.hasAttribute("width")) return null;
            return [box, document.getElementById("video")].map((one) => one.getBoundingClientRect().toJSON());
        }"""
    ).json_value()
    middle = (box["x"] + box["width"] / 2 - view["x"]) / view["width"]
    assert 0.35 < middle < 0.65
    assert box["height"] < 0.7 * view["height"]
    shoot(page, "live-enrolling")
    assert serious_violations(page) == []
    expect(page.locator("#result")).to_contain_text("is enrolled.", timeout=60_000)
    expect(page.locator("#result")).to_contain_text(NAME)
    assert camera_is_off(page)
    shoot(page, "live-enrolled")
    with service.client() as http:
        [person] = http.get(f"/v1/domains/{domain['id']}/persons").json()["items"]
    assert person["label"] == NAME
    assert person["faces"] >= 3

    begin(page, "Verify")
    expect(page.locator("#result")).to_contain_text(f"This is {NAME}.", timeout=60_000)
    shoot(page, "live-verified")
    assert serious_violations(page) == []
    assert camera_is_off(page)


def test_a_lost_connection_is_taken_up_again_and_costs_no_progress(page, service, domain):
    """Every second frame's answer ends the connection, as a network that goes away does."""
    opened = []
    gone = set()

    def route(socket):
        server = socket.connect_to_server()
        opened.append(socket)
        number = len(opened)

        def answer(message):
            socket.send(message)
            if number < 3 and '"type": "frame"' in message:
                gone.add(number)
                socket.close(code=1012)
                server.close()

        def ask(message):
            if number not in gone:  # of what is sent to a closed one, an error of the browser's would tell
                server.send(message)

        server.on_message(answer)
        socket.on_message(ask)

    page.route_web_socket("**/stream", route)
    open_live(page, domain)
    begin(page, "Enrol", "lost")
    expect(page.locator("#result")).to_contain_text("lost is enrolled.", timeout=60_000)
    assert len(opened) >= 3


def test_stopping_ends_the_session_and_the_camera(page, service, domain):
    open_live(page, domain)
    begin(page, "Enrol", "nobody")
    expect(page.locator("#progress")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#result")).to_contain_text("Stopped; nothing was decided.")
    assert camera_is_off(page)
    with service.client() as http:
        labels = [person["label"] for person in http.get(f"/v1/domains/{domain['id']}/persons").json()["items"]]
    assert "nobody" not in labels


def test_stopping_while_the_camera_is_asked_for_leaves_it_off(page, domain):
    page.add_init_script(
        """
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            await new Promise((resolve) => { window.allow = resolve; });
            window.given = await real(wanted);
            return window.given;
        };
        """
    )
    open_live(page, domain)
    begin(page, "Enrol", "nobody")
    eventually(lambda: page.evaluate("'allow' in window"))
    page.get_by_role("button", name="Stop").click()
    page.evaluate("window.allow()")
    eventually(lambda: page.evaluate("window.given?.getVideoTracks()[0].readyState === 'ended'"))
    expect(page.locator("#result")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Start the camera")).to_be_visible()


def test_leaving_stops_the_camera(page, domain):
    open_live(page, domain)
    begin(page, "Enrol", "nobody")
    expect(page.locator("#box")).to_be_visible()
    # The track outlives the page's own objects: it is kept where the next page of this tab does not reach.
    ended = page.evaluate(
        """() => {
            const [track] = document.getElementById("video").srcObject.getVideoTracks();
            dispatchEvent(new PageTransitionEvent("pagehide"));
            return track.readyState;
        }"""
    )
    assert ended == "ended"
    assert camera_is_off(page)


def test_a_session_that_has_expired_says_so(page, service, domain):
    def short(route):
        sent = route.request.post_data_json | {"expires_in_s": 5}
        route.continue_(post_data=sent)

    def lose_frames(socket):  # it would be through before its time is over
        socket.connect_to_server()
        socket.on_message(lambda _frame: None)

    page.route("**/sessions", short)
    page.route_web_socket("**/stream", lose_frames)
    open_live(page, domain)
    begin(page, "Enrol", "late")
    expect(page.locator("#result")).to_contain_text("expired", timeout=30_000)
    assert camera_is_off(page)


def test_a_session_that_has_expired_before_its_stream_was_open_says_so_too(page, service, domain):
    def short(route):
        route.continue_(post_data=route.request.post_data_json | {"expires_in_s": 1})

    def refuse_late(socket):
        time.sleep(1.5)
        socket.close(code=1008)

    page.route("**/sessions", short)
    page.route_web_socket("**/stream", refuse_late)
    open_live(page, domain)
    begin(page, "Enrol", "too late")
    expect(page.locator("#result")).to_contain_text("The session has expired.")
    assert camera_is_off(page)


def test_who_is_unknown_cannot_be_verified_and_it_says_so(page, domain):
    page.watcher.expect_status(404)
    open_live(page, domain)
    begin(page, "Verify", "nobody at all")
    expect(page.locator("#result")).to_contain_text("There is no person")
    assert camera_is_off(page)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotAllowedError", "was not allowed"),
        ("NotFoundError", "no camera here"),
        ("NotReadableError", "another program"),
    ],
)
def test_without_a_camera_it_says_why(page, domain, error, words):
    page.add_init_script(
        f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{error}'); }};"
    )
    open_live(page, domain)
    begin(page, "Enrol", "nobody")
    expect(page.locator("#result")).to_contain_text(words)
    if error == "NotAllowedError":
        shoot(page, "live-not-allowed")
        assert serious_violations(page) == []


def test_what_the_key_may_not_do_is_not_offered(browser, service, domain):
    with service.client() as http:
        wanted = {"name": "verifier", "scopes": ["verify"], "domains": [DOMAIN]}
        key = http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
    with visiting(browser, service) as page:
        sign_in(page, key, "/live")
        expect(page.get_by_label("Verify")).to_be_checked()
        expect(page.get_by_label("Enrol")).to_have_count(0)
        expect(page.get_by_role("link", name="Threshold")).to_have_count(0)
        # With this key, and what it is offered, somebody is verified all the same.
        begin(page, "Verify")
        expect(page.locator("#result")).to_contain_text(f"This is {NAME}.", timeout=60_000)
