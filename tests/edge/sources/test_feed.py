"""What the edge makes of a feed's answers, the hostile ones included."""

import httpx
import numpy as np
import pytest

from app.edge.errors import (
    ConfigError,
    MalformedMembers,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    SourceWithdrawn,
)
from app.edge.gallery import Gallery
from app.edge.sources.feed import FeedSource
from app.gallery_pages import Header, PageMember, encode
from tests.edge.making import CONTRACT, DIMENSION, templates, vector
from tests.edge.sources.pages import KEY, Server, answer, page


def test_pages_become_one_change() -> None:
    server = Server(
        answer(page("1", [("a", 1), ("b", 2)], full=True, more=True)),
        answer(page("2", [("c", 3), ("a", 4)], ["b"], more=True)),
        answer(page("3", [("d", 5)])),
    )
    delta = server.source().fetch(None)
    assert server.since == [None, "1", "2"]
    assert (delta.full, delta.version, delta.contract, delta.removed) == (True, "3", CONTRACT, ())
    assert {given.member.key for given in delta.upserts} == {"a", "c", "d"}
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.apply(delta)
    assert gallery.snapshot.match(vector(4), now=0)[0].member.key == "a"
    member = gallery.snapshot.member("c")
    assert member is not None
    assert (member.name, member.locks) == ("name of c", frozenset({"DC001"}))


def test_a_change_has_who_is_gone_and_who_is_back() -> None:
    server = Server(answer(page("8", [("a", 1)], ["b", "c"], more=True)), answer(page("9", [("b", 2)], ["a"])))
    delta = server.source().fetch("7")
    assert (delta.full, delta.version) == (False, "9")
    assert [given.member.key for given in delta.upserts] == ["b"]
    assert set(delta.removed) == {"a", "c"}


def test_a_server_that_has_forgotten_begins_anew_also_in_the_middle() -> None:
    server = Server(
        answer(page("8", [("a", 1)], ["b"], more=True)),
        answer(page("3", [("c", 2)], full=True, more=True)),
        answer(page("4", [("d", 2)])),
    )
    delta = server.source().fetch("7")
    assert delta.full
    assert {given.member.key for given in delta.upserts} == {"c", "d"}


def test_one_that_begins_anew_for_ever_is_given_up() -> None:
    server = Server(*(answer(page(str(n), full=True, more=True)) for n in range(10)))
    with pytest.raises(SourceUnavailable, match="anew"):
        server.source().fetch(None)
    assert len(server.asked) < 10


def test_nothing_new_is_asked_for_by_its_etag() -> None:
    server = Server(
        answer(page("7", [("a", 1)], full=True), etag='"e1"'),
        answer(page("7"), etag='"e1"'),
        httpx.Response(304),
        answer(page("8", [("b", 2)]), etag='"e2"'),
    )
    source = server.source()
    assert source.fetch(None).full
    for _ in range(2):
        delta = source.fetch("7")
        assert (delta.version, delta.full, delta.upserts, delta.removed) == ("7", False, (), ())
    assert [given.member.key for given in source.fetch("7").upserts] == ["b"]
    assert [request.headers.get("if-none-match") for request in server.asked] == [None, None, '"e1"', '"e1"']


def test_it_asks_for_what_it_may_have() -> None:
    server = Server(answer(page("1", full=True)))
    source = server.source()
    source.fetch(None)
    (request,) = server.asked
    assert request.url.raw_path.partition(b"?")[0] == b"/v1/domains/a%2Fb/gallery"
    assert request.headers["x-api-key"] == KEY
    assert KEY not in repr(source) + source.name


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (httpx.ConnectError("refused"), SourceUnavailable),
        (httpx.ReadTimeout("late"), SourceUnavailable),
        (httpx.RemoteProtocolError("broken"), SourceUnavailable),
        (httpx.Response(503), SourceUnavailable),
        (httpx.Response(500, text="<html>"), SourceUnavailable),
        (httpx.Response(429), SourceUnavailable),
        (httpx.Response(401), SourceRefused),
        (httpx.Response(403), SourceRefused),
        (httpx.Response(404), SourceRefused),
        (httpx.Response(422), SourceRefused),
        (httpx.Response(302, headers={"location": "http://elsewhere.test/"}), SourceRefused),
        (httpx.Response(304), SourceRefused),
        (httpx.Response(200, text="<html>a portal</html>"), MalformedMembers),
        (httpx.Response(200, json={}), MalformedMembers),
        (answer(b""), MalformedMembers),
        (answer(page("2", [("a", 1)])[:-1]), MalformedMembers),
        (answer(page("2", [("a", 1)]) + b"x"), MalformedMembers),
        (answer(page("2", [("a", 1), ("a", 2)])), MalformedMembers),
        (answer(page("2", [("a", 1)], ["a"])), MalformedMembers),
        (answer(page("1", more=True)), MalformedMembers),  # does not come on
        (answer(page("2", contract="another")), MalformedMembers),
        (answer(page("2", [("x", 1)], dimension=DIMENSION + 1)), MalformedMembers),
    ],
)
def test_whatever_it_answers_the_error_is_typed_and_nothing_is_half_applied(
    given: httpx.Response | Exception, error: type[SourceError], caplog: pytest.LogCaptureFixture
) -> None:
    """As the second page, so that something was there to be applied."""
    server = Server(answer(page("1", [("a", 1), ("b", 2)], full=True, more=True)), given)
    with pytest.raises(error) as raised:
        server.source().fetch(None)
    assert len(server.asked) == 2
    assert KEY not in str(raised.value) + caplog.text


def test_answers_that_count_say_what_time_it_is() -> None:
    heard = []
    date = {"date": "Fri, 15 Jan 2027 08:00:00 GMT"}
    server = Server(
        answer(page("1", [("a", 1)], full=True), etag='"1"', **date),
        answer(page("1", []), etag='"1"', **date),
        httpx.Response(304, headers=date),
        answer(page("1", []), date="yesterday"),
        httpx.Response(401, headers=date),
        httpx.Response(200, content=b"<html>a hotel's page to sign in</html>", headers=date),
    )
    source = server.source(heard=lambda *told: heard.append(told))
    for since in (None, "1", "1", "1"):
        source.fetch(since)
    for _ in range(2):
        with pytest.raises(SourceError):
            source.fetch("1")
    assert [told[0] for told in heard] == [1_800_000_000.0] * 3
    assert all(asked_s <= came_s for _, asked_s, came_s in heard)


def test_a_page_without_an_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.edge.sources.feed._MAX_PAGE_BYTES", 1_000_000)
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 1
            yield bytes(100_000)

    server = Server(httpx.Response(200, content=endless(), headers={"content-type": "application/vnd.facedex.gallery"}))
    with pytest.raises(MalformedMembers, match="more than"):
        server.source().fetch(None)
    assert sent < 20


@pytest.mark.parametrize("key", ["with\na line", "ključ", ""])
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(key: str) -> None:
    source = FeedSource("http://127.0.0.1:9", "d", lambda: key)
    with pytest.raises(SourceRefused) as raised:
        source.fetch(None)
    assert not key or key not in str(raised.value)
    source.close()


@pytest.mark.parametrize(
    "url", ["faces.example.com", "ftp://faces", "http://", "http://u:p@faces", "http://faces:x", "http://f?a=b"]
)
def test_an_address_that_is_none_is_an_error_of_the_settings(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FeedSource(url, "d", lambda: KEY)
    assert "u:p" not in str(raised.value)


def test_locks_that_are_malformed_are_said_and_open_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(answer(page("1", [("a", 1)], full=True, locks_malformed=True)))
    (given,) = server.source().fetch(None).upserts
    assert "list of names" in "".join(capsys.readouterr())
    np.testing.assert_allclose(given.embeddings, vector(1)[None], rtol=1e-6)


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_one_template_that_is_none_keeps_nobody_else_from_going(wrong: float) -> None:
    told = tuple(PageMember(key, key, None, None, (), False, count) for key, count in (("bad", 2), ("good", 1)))
    rows = np.stack([vector(1), np.full(DIMENSION, wrong), vector(3)]).astype(np.float32)
    header = Header("s", CONTRACT, DIMENSION, "2", False, False, told, ("gone",))
    delta = Server(answer(b"".join(encode(header, [rows])))).source().fetch("1")
    assert [given.member.key for given in delta.upserts] == ["good"]
    assert (set(delta.removed), delta.unusable) == ({"gone", "bad"}, ("bad",))
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("gone", 7), templates("bad", 8)])
    gallery.apply(delta)
    assert {key for key in ("gone", "bad", "good") if gallery.snapshot.member(key)} == {"good"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_says_no_is_told_from_one_that_cannot_be_asked_so(status: int) -> None:
    with pytest.raises(SourceWithdrawn):
        Server(httpx.Response(status)).source().fetch(None)
    with pytest.raises(SourceRefused) as refused:
        Server(httpx.Response(400)).source().fetch(None)
    assert not isinstance(refused.value, SourceWithdrawn)
