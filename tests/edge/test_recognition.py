import json

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from app.edge.asking import ServerRecognizer
from app.edge.cameras.frame import Frame, Slot
from app.edge.circuit import Circuit
from app.edge.clock import VirtualClock
from app.edge.errors import RecognizeError, RecognizeRefused, RecognizeUnavailable
from app.edge.gallery import Gallery
from app.edge.local import judge
from app.edge.recognition import Recognized, SwitchingRecognizer
from app.edge.snapshot import Match
from app.edge.triggers import Triggers
from tests.edge.making import CONTRACT, DIMENSION, member, templates


def frame(picture=b"a picture") -> Frame:
    context = Triggers(VirtualClock(100.0), {"entrance": ["DC001"]}).capture("entrance")
    return Frame("entrance", picture, 100.0, context)


def face(label="alice", distance=0.2, decision="match", person_id=None):
    candidate = {"person": {"id": person_id, "label": label, "name": "x"}, "distance": distance, "confidence": 90}
    return {"decision": decision, "candidates": [candidate], "box": {}}


class Server:
    """Answers as told: a list of faces, a status, or an exception; the last for ever."""

    def __init__(self, *answers, **settings):
        self.answers = list(answers)
        self.requests = []
        self.clock = VirtualClock(1_000.0)
        self.gallery = Gallery(CONTRACT, DIMENSION)
        self.gallery.update([templates("alice", 1), templates("late", 2, valid_from=2_000.0)])
        self.circuit = Circuit(self.clock, 2, 1.0, 8.0)
        self.recognizer = ServerRecognizer(
            httpx.Client(base_url="http://facedex.test", transport=httpx.MockTransport(self.answer)),
            SecretStr("the-key"),
            "hôtel / 1",
            lambda: self.gallery.snapshot,
            self.clock,
            self.circuit,
            **({"timeout_s": 4.0, "attempts": 2} | settings),
        )

    def answer(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(200, content=answer if isinstance(answer, bytes) else json.dumps({"faces": answer}))

    def ask(self) -> Recognized:
        return self.recognizer.recognize(frame())


def test_a_picture_is_sent_with_the_key_and_the_domain():
    server = Server([face()])
    server.ask()
    (request,) = server.requests
    assert request.url.path == "/recognize"
    assert request.url.params["domain"] == "hôtel / 1"
    assert request.headers["x-api-key"] == "the-key"
    assert request.content == b"a picture"


def test_whom_the_server_names_matches_as_a_member():
    recognized = Server([face(distance=0.25)]).ask()
    assert [(match.member.key, round(match.distance, 6)) for match in recognized.matches] == [("alice", 0.25)]
    assert (recognized.by, recognized.faces) == ("server", 1)


def test_a_person_is_found_by_their_id_before_their_label():
    server = Server([face(label="alice", person_id="b0b")])
    server.gallery.update([templates("alice", 1), templates("b0b", 3)])
    assert [match.member.key for match in server.ask().matches] == ["b0b"]


@pytest.mark.parametrize("label", ["stranger", "late", "name of alice", ""])
def test_who_is_no_current_member_never_matches(label):
    recognized = Server([face(label=label)]).ask()
    assert recognized.matches == ()
    assert recognized.nobody == {"not_a_member": 1}


def test_who_was_removed_matches_no_more():
    server = Server([face()])
    assert server.ask().matches
    server.gallery.update([])
    assert not server.ask().matches


def test_only_a_decision_to_match_matches():
    recognized = Server([face(decision="ambiguous"), face(decision="unknown"), face(distance=0.1), face()]).ask()
    assert [round(match.distance, 6) for match in recognized.matches] == [0.1]
    assert recognized.nobody == {"ambiguous": 1, "unknown": 1}


def test_a_bound_of_the_edge_holds_beside_the_servers():
    recognized = Server([face(distance=0.4)], max_distance=0.3).ask()
    assert recognized.matches == ()
    assert recognized.nobody == {"too_far": 1}


@pytest.mark.parametrize("fault", [503, 429, 500, httpx.ConnectError("x"), httpx.ReadTimeout("x")])
def test_a_failure_that_may_pass_is_tried_again(fault):
    server = Server(fault, [face()])
    assert server.ask().matches
    assert len(server.requests) == 2
    assert server.circuit.state == "closed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again_and_is_no_failure_of_the_network(status):
    server = Server(status)
    for _ in range(3):
        with pytest.raises(RecognizeRefused):
            server.ask()
    assert len(server.requests) == 3
    assert server.circuit.state == "closed"


@pytest.mark.parametrize(
    "answer",
    [b"", b"no JSON", b"[]", b'{"faces": 1}', b'{"faces": [{"decision": "match", "candidates": [{}]}]}', b"{" * 2_000],
)
def test_an_answer_that_is_none_is_an_error(answer):
    with pytest.raises(RecognizeError):
        Server(answer).ask()


@pytest.mark.parametrize("distance", [float("nan"), -1.0, 3.0])
def test_a_distance_that_cannot_be_is_an_error(distance):
    with pytest.raises(RecognizeError):
        Server([face(distance=distance)]).ask()


def test_an_endless_answer_is_an_error():
    with pytest.raises(RecognizeError, match="longer"):
        Server(b"x" * (5 * 2**20)).ask()


def test_all_attempts_together_keep_to_the_time():
    server = Server(httpx.ConnectTimeout("x"), attempts=10, timeout_s=1.0)
    with pytest.raises(RecognizeUnavailable):
        server.ask()
    assert server.clock.monotonic() < 1.0
    assert 2 <= len(server.requests) < 10


def test_a_server_that_fails_is_left_alone_and_tried_again_later():
    server = Server(httpx.ConnectError("x"), attempts=1)
    for _ in range(5):
        with pytest.raises(RecognizeUnavailable):
            server.ask()
    assert len(server.requests) == 2
    server.clock.sleep(1.1)
    server.answers = [[face()]]
    assert server.ask().matches
    assert server.circuit.state == "closed"


def test_no_error_tells_the_key_or_the_address():
    server = Server(httpx.ConnectError("http://facedex.test the-key"))
    with pytest.raises(RecognizeUnavailable) as raised:
        server.ask()
    assert "the-key" not in str(raised.value)
    assert "facedex.test" not in str(raised.value)


def test_the_pause_of_a_circuit_doubles_up_to_its_bound():
    clock = VirtualClock()
    circuit = Circuit(clock, 1, 1.0, 4.0)
    pauses = []
    for _ in range(5):
        assert circuit.may_ask()
        circuit.failed()
        since_s = clock.monotonic()
        while not circuit.may_ask():
            clock.sleep(0.5)
        pauses.append(clock.monotonic() - since_s)
        circuit._trying = False
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_only_one_tries_a_service_that_had_failed():
    clock = VirtualClock()
    circuit = Circuit(clock, 1, 1.0, 4.0)
    circuit.failed()
    clock.sleep(1.0)
    assert [circuit.may_ask() for _ in range(3)] == [True, False, False]
    assert circuit.state == "trying"
    circuit.succeeded()
    assert circuit.may_ask()


class Local:
    def __init__(self):
        self.asked = 0

    def recognize(self, frame):
        self.asked += 1
        return Recognized((), 0, "local")

    def close(self):
        pass


def test_recognition_goes_on_locally_and_comes_back():
    server, local = Server([face()], httpx.ConnectError("x"), attempts=1), Local()
    switching = SwitchingRecognizer(server.recognizer, local)
    assert [switching.recognize(frame()).by for _ in range(4)] == ["server", "local", "local", "local"]
    assert len(server.requests) == 3  # the third frame no longer waited for it
    server.clock.sleep(2.0)
    server.answers = [[face()]]
    assert switching.recognize(frame()).by == "server"
    assert switching.by == "server"


def test_a_server_that_refuses_is_no_reason_to_go_on_locally():
    server, local = Server(401), Local()
    with pytest.raises(RecognizeRefused):
        SwitchingRecognizer(server.recognizer, local).recognize(frame())
    assert local.asked == 0


def test_a_face_is_judged_by_threshold_and_lead():
    alice, bob = Match(member("alice"), 0.8), Match(member("bob"), 0.7)
    assert judge([alice, bob], 0.3, 0.05) is None
    assert judge([alice, bob], 0.3, 0.15) == "ambiguous"
    assert judge([bob], 0.2, 0.05) == "unknown"
    assert judge([], 0.2, 0.05) == "unknown"


def test_pixels_are_encoded_and_files_are_left_as_they_are():
    assert frame(b"file").encoded() == b"file"
    assert frame(np.zeros((4, 6, 3), np.uint8)).encoded().startswith(b"\xff\xd8")
    with pytest.raises(RecognizeError):
        frame(np.zeros((0, 0, 3), np.uint8)).encoded()


def test_the_newest_takes_the_slot_and_a_closed_one_lets_go():
    slot = Slot[str]()
    assert [slot.put(item) for item in "abc"] == [None, "a", "b"]
    assert slot.take() == "c"
    slot.close()
    assert slot.take() is None
