"""What a body costs before it is known to be a picture."""

import base64
import json
import tracemalloc
from collections.abc import Callable

import pytest
from flask import Flask, request

from app.api.pictures import parse_pair, parse_probe
from app.errors import FacedexError, InvalidRequest, UploadTooLarge

MAX_BYTES = 3 * 1024 * 1024
PHOTO = b"\xff\xd8" + bytes(range(256)) * 100


def parsed(body: bytes, parse: Callable[..., object] = parse_probe, max_bytes: int = MAX_BYTES) -> object:
    with Flask("test").test_request_context(method="POST", data=body, content_type="application/json"):
        return parse(request, {}, max_bytes=max_bytes)


def growth(body: bytes) -> tuple[float, str]:
    """The most memory that parsing took, in lengths of the body, and what came of it."""
    with Flask("test").test_request_context(method="POST", data=body, content_type="application/json"):
        tracemalloc.start()
        try:
            parse_probe(request, {}, max_bytes=MAX_BYTES)
            outcome = "ok"
        except FacedexError as error:
            outcome = error.code
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return most / len(body), outcome


def body_of(image: str, **parameters: object) -> bytes:
    return json.dumps({"image": image} | parameters, ensure_ascii=False).encode()


def test_base64_may_be_broken_into_lines():
    text = base64.encodebytes(PHOTO).decode()
    for image in (text, text.replace("\n", "\r\n"), f"data:image/jpeg;base64,{text}", f" {text}\t"):
        assert parsed(body_of(image)).image == PHOTO


@pytest.mark.parametrize("image", ["A\u00a0AAA", "ÄAAA", "AAA", "A!AA", "/9j/=AAA"])
def test_what_is_not_base64_is_refused(image):
    with pytest.raises(InvalidRequest, match="'image' is not base64"):
        parsed(body_of(image))


@pytest.mark.parametrize("max_bytes", [1024, 1025, 1026])
def test_the_longest_picture_is_taken_and_one_byte_more_is_not(max_bytes):
    def told(length: int) -> object:
        return parsed(body_of(base64.b64encode(bytes(length)).decode()), max_bytes=max_bytes)

    assert told(max_bytes).image == bytes(max_bytes)
    for more in range(1, 5):
        with pytest.raises(UploadTooLarge):
            told(max_bytes + more)


def test_base64_full_of_blanks_takes_a_few_times_its_length():
    grown, outcome = growth(body_of("/9j/ " * 800_000))
    assert outcome == "ok"
    assert grown < 8
    assert growth(body_of("/ " * 2_000_000))[0] < 8


@pytest.mark.parametrize("part", [b"[],", b"{},", b"[", b'{"a":', b"0,"])
def test_json_of_a_million_parts_is_not_parsed(part):
    for body in (b'{"image": [' + part * 800_000 + b"0]}", part * 800_000):
        grown, outcome = growth(body)
        assert outcome == "invalid_request"
        assert grown < 3


def test_parameters_beside_a_picture_are_few():
    few = {f"p{n}": ["a", {}] for n in range(70)}
    assert parsed(body_of(base64.b64encode(PHOTO).decode(), **few)).parameters == few
    with pytest.raises(InvalidRequest, match="brackets and commas"):
        parsed(body_of("", **{f"p{n}": 0 for n in range(301)}))
    with pytest.raises(InvalidRequest, match="brackets and commas"):
        parsed(b"[" * 301, parse_pair)
