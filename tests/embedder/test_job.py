import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deadline import Deadline
from app.embedder.framing import MAX_OBJECT_BYTES, encode
from app.embedder.job import NAME_MAX_CHARS, Job
from app.errors import InvalidImage, InvalidRequest, UploadTooLarge
from app.vision.faces import Box

JOB = Job(
    sha256="0f" * 32,
    length=1000,
    deadline=Deadline.after(10),
    embed="largest",
    model="dlib",
    client="somebody",
    request_id="find-me",
    again=True,
    early=True,
    background=True,
    effort="thorough",
)
NAMES = st.text(max_size=NAME_MAX_CHARS)


def crossed(job: Job) -> dict:
    """Its message on the other side of a socket."""
    return json.loads(json.dumps(job.to_message()))


@given(
    st.sampled_from(["all", "largest", "none"]),
    NAMES,
    NAMES,
    NAMES,
    st.booleans(),
    st.integers(1, 2**40),
    st.floats(0, 300),
    st.none()
    | st.builds(Box, st.integers(-9, 9999), st.integers(-9, 9999), st.integers(1, 9999), st.integers(1, 9999)),
)
def test_a_job_arrives_as_it_is(embed, model, client, request_id, again, length, seconds, thumbnail):
    job = replace(
        JOB,
        embed=embed,
        model=model,
        client=client,
        request_id=request_id,
        again=again,
        length=length,
        deadline=Deadline.after(seconds),
        thumbnail=thumbnail,
    )
    assert Job.from_message(crossed(job)) == job
    assert len(encode(crossed(job))) <= MAX_OBJECT_BYTES


def test_on_another_machine_the_time_that_is_left_counts():
    elsewhere = crossed(JOB) | {"deadline_s": 5.0, "left_s": 7.0}
    remaining_s = Job.from_message(elsewhere, same_clock=False).deadline.remaining_s()
    assert 6.0 < remaining_s <= 7.0
    assert Job.from_message(elsewhere).deadline.at_s == 5.0


def test_long_names_are_cut_as_the_client_cuts_them():
    job = Job.from_message(crossed(JOB) | {"client": "x" * 1000, "request_id": "y" * 1000})
    assert (job.client, job.request_id) == ("x" * NAME_MAX_CHARS, "y" * NAME_MAX_CHARS)


def test_a_picture_that_is_too_long_is_refused():
    assert Job.from_message(crossed(JOB), max_bytes=1000).length == 1000
    with pytest.raises(UploadTooLarge):
        Job.from_message(crossed(JOB), max_bytes=999)


@pytest.mark.parametrize("name", sorted(crossed(JOB).keys() - {"op", "left_s"}))
def test_nothing_may_be_missing(name):
    message = crossed(JOB)
    del message[name]
    with pytest.raises(InvalidRequest):
        Job.from_message(message)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0F" * 32},
        {"sha256": "0f" * 31},
        {"sha256": "0f" * 32 + "\n"},
        {"sha256": None},
        {"sha256": ["0f"]},
        {"bytes": -1},
        {"bytes": "many"},
        {"bytes": None},
        {"bytes": float("inf")},
        {"bytes": float("nan")},
        {"embed": "some"},
        {"embed": None},
        {"embed": ["all"]},
        {"effort": "heroic"},
        {"effort": None},
        {"effort": ["usual"]},
        {"thumbnail": [1, 2, 3]},
        {"thumbnail": [1, 2, 3, 0]},
        {"thumbnail": [1, 2, 3, 1 << 30]},
        {"thumbnail": [1, 2, 3, "many"]},
        {"thumbnail": [1, 2, 3, float("nan")]},
        {"thumbnail": 7},
        {"deadline_s": "soon"},
        {"deadline_s": None},
        {"deadline_s": []},
    ],
)
def test_what_cannot_be_done_is_refused(change):
    with pytest.raises(InvalidRequest):
        Job.from_message(crossed(JOB) | change)


@given(
    st.dictionaries(
        st.sampled_from(sorted(crossed(JOB))),
        st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_no_message_is_more_than_a_typed_error(change):
    for same_clock in (True, False):
        with contextlib.suppress(InvalidImage, InvalidRequest, UploadTooLarge):
            Job.from_message(crossed(JOB) | change, max_bytes=10_000, same_clock=same_clock)


@pytest.mark.parametrize("asked", [True, False])
def test_a_thorough_look_takes_what_others_leave_whoever_asks(asked):
    assert Job.from_message(crossed(JOB) | {"effort": "thorough", "background": asked}).background
    assert Job.from_message(crossed(JOB) | {"effort": "usual", "background": asked}).background is asked
