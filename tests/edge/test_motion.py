import pytest

from app.edge.motion import MalformedMotion, parse_motion


@pytest.mark.parametrize(
    ("payload", "moves"),
    [
        (b"true", True),
        (b" ON\n", True),
        (b"1", True),
        (b"off", False),
        (b'{"motion": true}', True),
        (b'{"IsMotion": "false"}', False),
        (b'{"state": "ON", "other": 1}', True),
        (b'{"value": 0}', False),
    ],
)
def test_what_bridges_send_is_understood(payload, moves):
    assert parse_motion(payload) is moves


@pytest.mark.parametrize(
    "payload", [b"", b"maybe", b"{", b"{}", b'{"motion": null}', b"\xff", b"[true]", b"x" * 70_000, b"{" * 60_000]
)
def test_what_says_neither_is_no_motion(payload):
    with pytest.raises(MalformedMotion):
        parse_motion(payload)
