"""Detection, embeddings and verification over the running service, with the real model."""

import base64
import json
import re
import socket
from itertools import combinations, pairwise

import httpx
import numpy as np
import pytest

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from tests import pictures
from tests.service.running import SMALL, eventually, running_service

pytestmark = pytest.mark.service

HER = pictures.portrait().read_bytes()
GROUP = pictures.group_photo().read_bytes()
ONE = ("/v1/detect", "/v1/embeddings")
REQUEST_KEYS = {"elapsed_time", "request_id", "timings_ms"}


@pytest.fixture
def fresh(service):
    """A connection a request: the server closes one whose request was answered before all of it was read."""
    with service.client() as client:
        client.headers["Connection"] = "close"
        yield client


def post(http: httpx.Client, path: str, data: bytes, **parameters: str) -> httpx.Response:
    return http.post(path, files={"file": data}, data=parameters)


def batch(http: httpx.Client, *files: bytes, accept: str = "*/*", **parameters: str) -> httpx.Response:
    parts = [("file", (f"{n}.jpg", data)) for n, data in enumerate(files)]
    return http.post("/v1/embeddings/batch", files=parts, data=parameters, headers={"Accept": accept})


def verify(http: httpx.Client, first: bytes, second: bytes, **parameters: str) -> httpx.Response:
    return http.post("/v1/verify", files={"file1": first, "file2": second}, data=parameters)


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, answer.json()["code"]


def lines_of(answer: httpx.Response) -> list[dict]:
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_detection_tells_where_the_faces_are_and_nothing_of_whose(http):
    told = post(http, "/v1/detect", GROUP).raise_for_status().json()
    assert set(told) == {"image", "faces", "model"} | REQUEST_KEYS
    assert (told["image"], told["model"], len(told["faces"])) == ({"width": 1280, "height": 886}, "dlib", 6)
    for face in told["faces"]:
        assert set(face) == {"box", "landmarks", "detection_score", "size_px", "sharpness"}
        box = face["box"]
        assert face["size_px"] == min(box["w"], box["h"])
        assert all(box["x"] <= x <= box["x"] + box["w"] for x, _ in face["landmarks"])
        right_eye, _, left_eye, _, nose = face["landmarks"]
        assert left_eye[0] < nose[0] < right_eye[0]
        assert nose[1] > max(left_eye[1], right_eye[1])
    areas = [face["box"]["w"] * face["box"]["h"] for face in told["faces"]]
    assert areas == sorted(areas, reverse=True)


def test_embeddings_are_the_workers_to_the_last_bit(service, http):
    told = post(http, "/v1/embeddings", GROUP).raise_for_status().json()
    assert set(told) == {"image", "faces", "model", "contract", "dimension"} | REQUEST_KEYS
    direct = EmbedderClient(f"unix:{service.storage}/run/embedder.sock").analyze(GROUP, deadline=Deadline.after(10))
    assert (told["contract"], told["dimension"], len(told["faces"])) == (direct.contract, 128, 6)
    for shown, face in zip(told["faces"], direct.faces, strict=True):
        assert np.array_equal(np.asarray(shown["embedding"], np.float32), face.embedding)
        assert shown["embedding"] == face.embedding.tolist()
        assert np.linalg.norm(shown["embedding"]) == pytest.approx(1.0, abs=1e-6)


def test_the_largest_face_alone_or_the_faces_without_vectors(http):
    everything = post(http, "/v1/embeddings", GROUP, model="dlib").json()["faces"]
    assert post(http, "/v1/embeddings", GROUP, faces="largest").json()["faces"] == everything[:1]
    bare = post(http, "/v1/embeddings", GROUP, vectors="false").json()["faces"]
    assert bare == [{key: face[key] for key in face if key != "embedding"} for face in everything]
    assert bare == post(http, "/v1/detect", GROUP).json()["faces"]


def test_a_picture_without_faces(http):
    nothing = pictures.faceless()
    assert post(http, "/v1/detect", nothing).json()["faces"] == []
    told = post(http, "/v1/embeddings", nothing).raise_for_status().json()
    assert (told["faces"], told["dimension"]) == ([], 128)
    assert problem(post(http, "/v1/embeddings", nothing, faces="largest")) == (422, "no_face")


@pytest.mark.parametrize("path", ONE)
def test_all_three_ways_to_send_a_picture_give_the_same_faces(http, path):
    text = base64.b64encode(HER).decode()
    answers = [
        http.post(path, files={"file": HER}, data={"model": "dlib"}),
        http.post(path, content=HER, params={"model": "dlib"}),
        http.post(path, json={"image": text, "model": "dlib"}),
        http.post(path, json={"image": f"data:image/png;base64,{text}"}),
    ]
    faces = [answer.raise_for_status().json()["faces"] for answer in answers]
    assert len(faces[0]) == 1
    assert all(other == faces[0] for other in faces[1:])


def test_a_batch_answers_each_picture_at_its_place(http):
    told = batch(http, HER, b"junk", GROUP, pictures.faceless(), b"", HER).raise_for_status().json()
    assert set(told) == {"succeeded", "failed", "results"} | REQUEST_KEYS
    assert (told["succeeded"], told["failed"]) == (4, 2)
    assert [(entry["index"], entry["file"], entry["status"]) for entry in told["results"]] == [
        (n, f"{n}.jpg", status) for n, status in enumerate(["ok", "error", "ok", "ok", "error", "ok"])
    ]
    assert [entry.get("code") for entry in told["results"]] == [None, "invalid_image", None, None, "empty_upload", None]
    assert [len(entry["faces"]) for entry in told["results"] if "faces" in entry] == [1, 6, 0, 1]
    for n, alone in ((0, HER), (2, GROUP)):
        single = post(http, "/v1/embeddings", alone).json()
        for key in ("image", "faces", "model", "contract", "dimension"):
            assert told["results"][n][key] == single[key]


def test_a_batch_without_one_success_is_its_first_error_with_all_results(http):
    answer = batch(http, b"junk", pictures.faceless(), b"", faces="largest")
    assert problem(answer) == (422, "invalid_image")
    assert [entry["code"] for entry in answer.json()["results"]] == ["invalid_image", "no_face", "empty_upload"]
    assert problem(batch(http, pictures.animated_gif(), b"junk")) == (415, "unsupported_image")


@pytest.mark.parametrize(
    ("accept", "parameters"),
    [("application/x-ndjson", {}), ("*/*", {"stream": "true"}), ("application/json;q=0.5, application/x-ndjson", {})],
)
def test_a_stream_is_a_line_per_picture_and_a_summary(http, accept, parameters):
    files = [HER, b"junk", GROUP, pictures.faceless(), HER, b""]
    answer = batch(http, *files, accept=accept, **parameters)
    *entries, summary = lines_of(answer)
    assert answer.status_code == 200
    assert {key: summary[key] for key in ("summary", "succeeded", "failed")} == {
        "summary": True,
        "succeeded": 4,
        "failed": 2,
    }
    assert summary["request_id"] == answer.headers["x-request-id"]
    entries.sort(key=lambda entry: entry["index"])
    whole = batch(http, *files).json()["results"]
    assert [entry | {"timings_ms": None} for entry in entries] == [entry | {"timings_ms": None} for entry in whole]


@pytest.mark.parametrize(
    ("accept", "parameters"),
    [("*/*", {}), ("application/json", {}), ("application/x-ndjson", {"stream": "false"}), ("image/png", {})],
)
def test_without_asking_a_batch_is_one_document(http, accept, parameters):
    assert batch(http, HER, accept=accept, **parameters).json()["succeeded"] == 1


def test_a_stream_of_nothing_but_errors_is_still_a_stream(http):
    answer = batch(http, b"junk", b"junk", stream="true")
    assert [line.get("code") for line in lines_of(answer)] == ["invalid_image", "invalid_image", None]


def test_a_batch_has_limits(service, http):
    assert problem(batch(http, *[b"x"] * 101)) == (400, "invalid_request")
    entry = batch(http, bytes(33 * 1024 * 1024), HER).json()["results"][0]
    assert (entry["status"], entry["code"]) == ("error", "upload_too_large")
    hundred = batch(http, *[HER] * 100, vectors="false").json()
    assert (hundred["succeeded"], hundred["failed"]) == (100, 0)


def test_others_get_their_turn_in_the_middle_of_a_batch(tmp_path):
    with (
        running_service(tmp_path / "storage", "--workers", "1", env=SMALL | {"EMBEDDER_QUEUE": "4"}) as service,
        service.client() as http,
    ):
        files = [("file", GROUP)] * 20
        with http.stream("POST", "/v1/embeddings/batch", files=files, data={"stream": "true"}) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines))["status"] == "ok"
            assert [post(http, "/v1/detect", HER).status_code for _ in range(5)] == [200] * 5
            *others, summary = map(json.loads, lines)
        assert (summary["succeeded"], summary["failed"], len(others)) == (20, 0, 19)


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_hangs_up_ends_its_batch(service, http, stream):
    request_id, files = f"hang-up-{stream}", 90
    boundary = b"--xyz\r\nContent-Disposition: form-data; name=file; filename=a.jpg\r\n\r\n"
    body = (boundary + GROUP + b"\r\n") * files + b"--xyz--\r\n"
    head = (
        f"POST /v1/embeddings/batch?stream={stream} HTTP/1.1\r\nHost: x\r\nx-api-key: {service.key}\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Type: multipart/form-data; boundary=xyz\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )

    def log(name: str) -> list[str]:
        lines = (service.storage / "logs" / name).read_text().splitlines()
        return [line for line in lines if f"request_id={request_id}" in line]

    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: log("embedder.log"))
    given_up = "Batch given up" if stream == "true" else "POST /v1/embeddings/batch 499"
    eventually(lambda: any(given_up in line for line in log("gunicorn-error.log")))
    assert len(log("embedder.log")) < files
    assert "Traceback" not in "\n".join(log("gunicorn-error.log"))


def test_two_photos_of_one_person_are_verified_and_two_persons_are_not(http):
    persons = [[photo.read_bytes() for photo in photos[:3]] for photos in pictures.lfw10().values()]
    genuine = [verify(http, a, b).raise_for_status().json() for photos in persons for a, b in combinations(photos, 2)]
    impostors = [verify(http, a[0], b[0]).raise_for_status().json() for a, b in combinations(persons, 2)]
    assert not any(told["verified"] for told in impostors)
    assert sum(told["verified"] for told in genuine) >= 0.85 * len(genuine)
    assert min(told["distance"] for told in impostors) > np.median([told["distance"] for told in genuine])
    for told in genuine + impostors:
        assert told["verified"] == (told["distance"] <= told["threshold"] == 0.07)
        assert told["verified"] == (told["confidence"] >= 50)
    by_distance = sorted(genuine + impostors, key=lambda told: told["distance"])
    assert all(nearer["confidence"] >= farther["confidence"] for nearer, farther in pairwise(by_distance))


def test_a_verification_tells_both_faces_and_no_vector(http):
    answer = verify(http, HER, HER)
    told = answer.raise_for_status().json()
    wanted = {"verified", "distance", "threshold", "confidence", "model", "contract", "face1", "face2"}
    assert set(told) == wanted | REQUEST_KEYS
    assert (told["verified"], told["model"]) == (True, "dlib")
    assert told["distance"] == pytest.approx(0.0, abs=1e-6)
    assert told["confidence"] > 99.9
    assert told["face1"] == told["face2"]
    assert set(told["face1"]) == {"box", "detection_score"}
    text = base64.b64encode(HER).decode()
    again = http.post("/v1/verify", json={"image1": text, "image2": text, "model": "dlib", "threshold": 0.1}).json()
    assert (again["distance"], again["face1"], again["threshold"]) == (told["distance"], told["face1"], 0.1)


def test_a_verification_names_the_picture_that_is_to_blame(fresh):
    text, nothing = base64.b64encode(HER).decode(), base64.b64encode(pictures.faceless()).decode()
    for answer, status, code, names in (
        (verify(fresh, HER, pictures.faceless()), 422, "no_face", "file2"),
        (verify(fresh, pictures.faceless(), HER), 422, "no_face", "file1"),
        (fresh.post("/v1/verify", json={"image1": text, "image2": nothing}), 422, "no_face", "image2"),
        (verify(fresh, HER, GROUP), 422, "several_faces", "file2"),
        (verify(fresh, b"junk", HER), 422, "invalid_image", "file1"),
        (verify(fresh, HER, b""), 400, "empty_upload", "file2"),
        (verify(fresh, HER, bytes(33 * 1024 * 1024)), 413, "upload_too_large", "file2"),
        (fresh.post("/v1/verify", files={"file1": HER}), 400, "empty_upload", "file2"),
        (fresh.post("/v1/verify", files=[("file1", HER), ("file1", HER)]), 400, "invalid_request", "file1"),
        (fresh.post("/v1/verify", json={"image1": text}), 400, "empty_upload", "image2"),
        (fresh.post("/v1/verify", json={"image1": "!!", "image2": text}), 400, "invalid_request", "image1"),
        (fresh.post("/v1/verify", content=HER), 400, "empty_upload", "file1"),
        (fresh.post("/v1/verify", json=[]), 400, "invalid_request", "JSON"),
    ):
        assert problem(answer) == (status, code), answer.text
        assert names in answer.json()["detail"]


REFUSED = {
    "text": (lambda: b"This is text.", 422, "invalid_image"),
    "truncated": (lambda: HER[:20_000], 422, "invalid_image"),
    "huge": (pictures.huge_png, 413, "image_too_large"),
    "gif": (pictures.animated_gif, 415, "unsupported_image"),
    "empty": (lambda: b"", 400, "empty_upload"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_pictures(service, fresh, case):
    before = {process.pid for process in service.pool()[1]}
    make, status, code = REFUSED[case]
    data = make()
    for path in (*ONE, "/v1/embeddings/batch"):
        assert problem(post(fresh, path, data)) == (status, code)
        assert problem(fresh.post(path, content=data)) == (status, code)
    assert problem(verify(fresh, HER, data)) == (status, code)
    assert {process.pid for process in service.pool()[1]} == before


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"model": "nope"}, 404, "unknown_model"),
        ({"model": ""}, 422, "invalid_parameters"),
        ({"model": "x" * 65}, 422, "invalid_parameters"),
        ({"modell": "dlib"}, 422, "invalid_parameters"),
    ],
)
def test_bad_parameters_of_all(fresh, parameters, status, code):
    for path in (*ONE, "/v1/embeddings/batch"):
        for answer in (post(fresh, path, HER, **parameters), fresh.post(path, params=parameters, content=HER)):
            assert problem(answer) == (status, code)
    for answer in (
        verify(fresh, HER, HER, **parameters),
        batch(fresh, HER, HER, stream="true", **parameters),
    ):
        assert problem(answer) == (status, code)
    if code == "unknown_model":
        assert "loaded: dlib" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/v1/embeddings", {"faces": "some"}),
        ("/v1/embeddings", {"vectors": "perhaps"}),
        ("/v1/embeddings", {"stream": "true"}),
        ("/v1/embeddings/batch", {"stream": "perhaps"}),
        ("/v1/embeddings/batch", {"faces": "none"}),
        ("/v1/detect", {"faces": "largest"}),
        ("/v1/verify", {"threshold": "0"}),
        ("/v1/verify", {"threshold": "2.1"}),
        ("/v1/verify", {"threshold": "nan"}),
        ("/v1/verify", {"treshold": "0.1"}),
    ],
)
def test_bad_parameters_of_one(fresh, path, parameters):
    files = {"file1": HER, "file2": HER} if path == "/v1/verify" else {"file": HER}
    for answer in (fresh.post(path, files=files, data=parameters), fresh.post(path, files=files, params=parameters)):
        assert problem(answer) == (422, "invalid_parameters")


def test_a_file_may_have_any_name(http):
    for name in ("Škoda 李雷.jpg", "../../etc/passwd", 'a"b;c=d', "x" * 3000):
        entry = http.post("/v1/embeddings/batch", files={"file": (name, HER)}).json()["results"][0]
        assert (entry["status"], entry["file"]) == ("ok", name)


def test_without_the_key_nothing_is_answered(service):
    for path in (*ONE, "/v1/embeddings/batch", "/v1/verify"):
        answer = httpx.post(service.url + path, content=b"x", timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_the_description_and_the_metrics_know_them(http):
    paths = http.get("/openapi.json").json()["paths"]
    assert {*ONE, "/v1/embeddings/batch", "/v1/verify"} <= set(paths)
    batch(http, HER, b"junk")
    verify(http, HER, HER)
    told = http.get("/metrics").text
    for series in ('batch_pictures_total{outcome="ok"}', 'verifications_total{outcome="verified"}'):
        assert float(re.findall(rf"^facedex_{re.escape(series)} (\S+)$", told, re.M)[0]) >= 1
