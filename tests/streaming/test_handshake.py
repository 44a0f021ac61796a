import logging

import pytest

from app.errors import InvalidRequest, OriginNotAllowed, Unauthenticated, UpgradeRequired
from app.streaming.handshake import WIRE_LOGGER, check_origin, open_protocol, presented_token

HEADERS = {
    "Host": "h",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def opened(method: str = "GET", version: str = "HTTP/1.1", **changed: str | None) -> bytes:
    headers = {name: changed.get(name.replace("-", "_"), text) for name, text in HEADERS.items()}
    headers |= {name.replace("_", "-"): text for name, text in changed.items()}
    given = {name: text for name, text in headers.items() if text is not None}
    return open_protocol(method, version, given, max_size=1000, extra={"X-Request-ID": "r1"}).answer


def test_the_answer_proves_that_the_key_was_read():
    answer = opened().decode()
    assert answer.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455, section 1.3
    assert "X-Request-ID: r1\r\n" in answer


def test_no_extension_is_agreed_to():
    assert b"Extensions" not in opened(Sec_WebSocket_Extensions="permessage-deflate")


@pytest.mark.parametrize(
    "wrong",
    [{"Upgrade": None}, {"Upgrade": "h2c"}, {"Connection": "close"}, {"method": "POST"}, {"method": "HEAD"}],
    ids=str,
)
def test_what_asks_for_no_websocket_is_told_that_one_is_here(wrong):
    with pytest.raises(UpgradeRequired):
        opened(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": "ä" * 24},
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Version": None},
        {"version": "HTTP/1.0"},
        {"version": "HTTP/2"},
        {"Sec_WebSocket_Protocol": "chat"},
        {"Sec_WebSocket_Protocol": "facedex.token.secret"},
        {"Sec_WebSocket_Protocol": 'facedex.v1,,"secret'},
    ],
    ids=str,
)
def test_a_wrong_handshake_is_refused_without_repeating_it(wrong):
    with pytest.raises(InvalidRequest) as caught:
        opened(**wrong)
    assert "secret" not in str(caught.value)


def test_the_subprotocol_is_chosen_and_the_token_is_not():
    answer = opened(Sec_WebSocket_Protocol="facedex.token.secret, facedex.v1").decode()
    assert "Sec-WebSocket-Protocol: facedex.v1\r\n" in answer
    assert "secret" not in answer


def test_a_token_comes_as_bearer_or_among_the_subprotocols():
    assert presented_token("t", None) == "t"
    assert presented_token(None, "facedex.v1, facedex.token.t_-9") == "t_-9"
    assert presented_token("t", "facedex.token.t") == "t"
    for nothing in ((None, None), ("", ""), (None, "facedex.v1"), (None, "facedex.token.")):
        with pytest.raises(Unauthenticated):
            presented_token(*nothing)
    for two in (("a", "facedex.token.b"), (None, "facedex.token.a, facedex.token.b")):
        with pytest.raises(InvalidRequest, match="two tokens"):
            presented_token(*two)
    with pytest.raises(InvalidRequest) as caught:
        presented_token(None, 'facedex.v1 "secret')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "h:8000"),
        ("http://h:8000", "h:8000"),
        ("https://H", "h"),
        ("https://h", "h:443"),
        ("https://shop.example.com", "h"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_programs_and_pages_of_ones_own_are_let_through(origin, host):
    check_origin(origin, host, ("https://shop.example.com",))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://h:8001", "h:8000"),
        ("http://evil.h", "h"),
        ("https://shop.example.com.evil", "h"),
        ("http://shop.example.com", "h"),
        ("null", "null"),
        ("", ""),
        ("http://h:x", "h"),
        ("http://h", "h:x"),
        ("file://", "h"),
        ("https://h", ""),
        ("http://[", "h"),
        ("http://h", "["),
    ],
)
def test_other_pages_are_not(origin, host):
    with pytest.raises(OriginNotAllowed):
        check_origin(origin, host, ("https://shop.example.com",))


def test_the_library_logs_neither_headers_nor_messages():
    assert not WIRE_LOGGER.isEnabledFor(logging.INFO)
