"""The bytes of a gallery's page: as they were written, or refused."""

import hashlib
import json
import struct

import numpy as np
import pytest

from app.gallery_pages import Header, MalformedPage, PageMember, decode, encode

MEMBERS = (
    PageMember("a", "Škoda 🚗", 1.5, None, ("DC001", "DC006"), False, 2),
    PageMember("b", "b", None, 2e9, (), True, 1),
)
HEADER = Header("source", "contract", 3, "v1", True, False, MEMBERS, ("c",), 1234.5)
ROWS = np.arange(9, dtype=np.float32).reshape(3, 3)
PAGE = b"".join(encode(HEADER, [ROWS[:1], ROWS[1:]]))


def with_header(**changed: object) -> bytes:
    """The page with another header, and a digest that is right."""
    (length,) = struct.unpack("<I", PAGE[8:12])
    told = json.loads(PAGE[12 : 12 + length]) | changed
    text = json.dumps(told).encode()
    body = PAGE[:8] + struct.pack("<I", len(text)) + text + PAGE[12 + length : -32]
    return body + hashlib.sha256(body).digest()


def test_a_page_is_read_as_it_was_written() -> None:
    header, rows = decode(PAGE)
    assert header == HEADER
    assert rows.dtype == np.float32
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, ROWS)
    assert decode(with_header())[0] == HEADER


def test_whatever_bit_is_changed_the_page_is_refused() -> None:
    for position in range(len(PAGE)):
        damaged = bytearray(PAGE)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(MalformedPage):
            decode(damaged)


def test_wherever_it_is_cut_off_the_page_is_refused() -> None:
    for length in range(len(PAGE)):
        with pytest.raises(MalformedPage):
            decode(PAGE[:length])


@pytest.mark.parametrize(
    "changed",
    [
        {"contract": None},
        {"contract": 7},
        {"dimension": 0},
        {"dimension": 4},
        {"dimension": True},
        {"dimension": 10**9},
        {"dimension": 3.0},
        {"full": 1},
        {"more": "no"},
        {"version": ["v"]},
        {"removed": [1]},
        {"removed": "abc"},
        {"members": {}},
        {"members": [7]},
        {"members": []},
        {"members": [{"key": "a", "name": "a", "templates": 4}]},
        {"members": [{"key": "a", "name": "a", "templates": 0}]},
        {"members": [{"key": "a", "name": "a", "templates": -3}, {"key": "b", "name": "b", "templates": 6}]},
        {"members": [{"key": "a", "templates": 3}]},
        {"members": [{"key": "a", "name": "a", "templates": 3, "valid_from": "today"}]},
        {"members": [{"key": "a", "name": "a", "templates": 3, "valid_until": float("nan")}]},
        {"members": [{"key": "a", "name": "a", "templates": 3, "locks": "DC001"}]},
        {"members": [{"key": "a", "name": "a", "templates": 3, "locks": [None]}]},
        {"saved_at": "now"},
        {"saved_at": float("inf")},
    ],
)
def test_what_was_not_agreed_on_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(MalformedPage):
        decode(with_header(**changed))
