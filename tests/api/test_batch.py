"""What a batch holds while it is worked on."""

import tracemalloc

import pytest
from flask import Flask
from structlog.testing import CapturingLogger

from app.api.batch import Batch, json_answer, streamed_answer
from app.config import parse_settings
from app.errors import InvalidImage, PoolBusy
from app.vision.faces import Analysis

PICTURES = 12
LENGTH = 1024 * 1024


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("answer", [json_answer, streamed_answer])
def test_a_picture_is_dropped_once_it_has_been_looked_at(answer, fails):
    held, asked = [], []

    def analyze(data: bytes, _deadline: object) -> Analysis:
        asked.append(len(data))
        if len(asked) == 3:
            raise PoolBusy("busy once")
        held.append(tracemalloc.get_traced_memory()[0] // LENGTH)
        if fails:
            try:
                raise ValueError(data)
            except ValueError:
                raise InvalidImage("no picture") from None
        return Analysis(1, 1, (), "model", "dlib:128:cosine", {})

    with Flask("test").test_request_context():
        tracemalloc.start()
        try:
            batch = Batch(
                names=[f"{number}.jpg" for number in range(PICTURES)],
                pictures={number: bytes(LENGTH) for number in range(PICTURES)},
                analyze=analyze,
                settings=parse_settings(embedder_workers=1),
                hung_up=lambda: False,
                request_id="r",
                started_s=0.0,
            )
            told = answer(batch).get_data(as_text=True)
        finally:
            tracemalloc.stop()
    assert told.count('"error"' if fails else '"ok"') == PICTURES
    assert asked == [LENGTH] * (PICTURES + 1)
    assert held == list(range(PICTURES, 0, -1))


def test_a_stream_that_is_closed_before_its_end_says_so(monkeypatch):
    told = CapturingLogger()
    monkeypatch.setattr("app.api.batch.log", told)

    def analyze(_data: bytes, _deadline: object) -> Analysis:
        return Analysis(1, 1, (), "model", "dlib:128:cosine", {})

    with Flask("test").test_request_context():
        response = streamed_answer(
            Batch(
                names=["a.jpg", "b.jpg"],
                pictures={0: b"a", 1: b"b"},
                analyze=analyze,
                settings=parse_settings(),
                hung_up=lambda: False,
                request_id="r",
                started_s=0.0,
            )
        )
        assert '"ok"' in next(response.response)
        response.close()
    assert any("Batch given up" in call.args[0] for call in told.calls)
