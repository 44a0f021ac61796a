"""What the API answers to input that is wrong, and that none of it costs a worker or leaves a row."""

import base64
import io
import socket
import struct
import threading

import pytest
from PIL import Image

from tests import pictures

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def domain(service):
    with service.client() as http:
        http.post("/v1/domains", json={"name": "bad input"}).raise_for_status()
        yield "bad input"
        http.delete("/v1/domains/bad input").raise_for_status()


@pytest.fixture(autouse=True)
def _costs_no_worker_and_leaves_no_row(service, http, domain):
    before = {process.pid for process in service.pool()[1]}
    yield
    assert {process.pid for process in service.pool()[1]} == before
    report = http.get(f"/v1/domains/{domain}").json()
    assert (report["embeddings"], report["persons"]) == (0, 0)


def photo() -> Image.Image:
    return Image.open(pictures.portrait()).convert("RGB")


def sixteen_bit() -> bytes:
    import numpy as np

    return pictures.encode(Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG")


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each takes as long as the first to decode."""
    data = pictures.encode(Image.new("RGB", (2000, 2000), "red"), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def many_comments(count: int) -> bytes:
    data = pictures.encode(photo())
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def run_length_bmp() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 256, 0)
    palette, lines = bytes(1024), b"\x01\x00\x00\x00" * 4000
    offset = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(lines), 0, 0, offset) + header + palette + lines


REFUSED = {
    "not an image": (lambda: b"This is text, not a picture.", 422, "invalid_image"),
    "truncated": (lambda: pictures.portrait().read_bytes()[:20_000], 422, "invalid_image"),
    "truncated jpeg": (lambda: pictures.encode(photo())[:9_000], 422, "invalid_image"),
    "empty": (lambda: b"", 400, "empty_upload"),
    "30,000 x 30,000": (pictures.huge_png, 413, "image_too_large"),
    "animated gif": (pictures.animated_gif, 415, "unsupported_image"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "invalid_image"),
    "tiff": (lambda: pictures.encode(photo(), "TIFF"), 415, "unsupported_image"),
}
REFUSED |= {
    "a jpeg of many scans": (lambda: many_scans(200), 415, "unsupported_image"),
    "a jpeg of many comments": (lambda: many_comments(100_000), 415, "unsupported_image"),
    "a run-length bmp": (run_length_bmp, 415, "unsupported_image"),
}
TAKEN = {
    "16 bit": (sixteen_bit, 1),
    "cmyk": (lambda: pictures.encode(photo().convert("CMYK")), 1),
    "grey": (lambda: pictures.encode(photo().convert("L")), 1),
    "alpha": (lambda: pictures.encode(photo().convert("RGBA"), "PNG"), 1),
    "palette": (lambda: pictures.encode(photo().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), 1),
    "webp": (lambda: pictures.encode(photo(), "WEBP"), 1),
    "bmp": (lambda: pictures.encode(photo(), "BMP"), 1),
    "no face": (pictures.faceless, 0),
    "forty faces": (pictures.many_faces, 40),
    "one pixel": (lambda: pictures.encode(Image.new("RGB", (1, 1))), 0),
    "a line": (lambda: pictures.encode(Image.new("RGB", (20_000, 1)), "PNG"), 0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_pictures(http, domain, case):
    make, status, code = REFUSED[case]
    data = make()
    for answer in (
        http.post("/recognize", data={"domain": domain}, files={"file": data}),
        http.post("/recognize", params={"domain": domain}, content=data),
        http.post(f"/v1/domains/{domain}/persons/somebody/faces", files={"file": data}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("case", TAKEN)
def test_unusual_pictures_are_read(http, domain, case):
    make, faces = TAKEN[case]
    answer = http.post("/recognize", data={"domain": domain}, files={"file": make()})
    assert answer.status_code == 200, answer.text
    # Grey noise may look like one more face to a detector; the face that is there must be seen.
    assert faces <= len(answer.json()["faces"]) <= 2 * faces


PHOTO = pictures.portrait().read_bytes()
BAD_REQUESTS = {
    "no domain": ({}, {"file": PHOTO}, 422, "invalid_parameters"),
    "unknown domain": ({"domain": "nowhere"}, {"file": PHOTO}, 404, "domain_not_found"),
    "a path for a domain": ({"domain": "../../etc/passwd"}, {"file": PHOTO}, 404, "domain_not_found"),
    "sql for a domain": ({"domain": "'; DROP TABLE domains; --"}, {"file": PHOTO}, 404, "domain_not_found"),
    "empty domain": ({"domain": "  "}, {"file": PHOTO}, 422, "invalid_name"),
    "long domain": ({"domain": "x" * 300}, {"file": PHOTO}, 422, "invalid_name"),
    "nul in the domain": ({"domain": "a\x00b"}, {"file": PHOTO}, 422, "invalid_name"),
    "no candidates": ({"domain": "bad input", "top_k": "0"}, {"file": PHOTO}, 422, "invalid_parameters"),
    "a word for top_k": ({"domain": "bad input", "top_k": "many"}, {"file": PHOTO}, 422, "invalid_parameters"),
    "negative threshold": ({"domain": "bad input", "threshold": "-1"}, {"file": PHOTO}, 422, "invalid_parameters"),
    "nan threshold": ({"domain": "bad input", "threshold": "nan"}, {"file": PHOTO}, 422, "invalid_parameters"),
    "a misspelt parameter": ({"domain": "bad input", "treshold": "1"}, {"file": PHOTO}, 422, "invalid_parameters"),
    "the file under another name": ({"domain": "bad input"}, {"upload": PHOTO}, 400, "empty_upload"),
    "two files": ({"domain": "bad input"}, [("file", PHOTO), ("file", PHOTO)], 400, "invalid_request"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_parameters(http, case):
    data, files, status, code = BAD_REQUESTS[case]
    answer = http.post("/recognize", data=data, files=files)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"null", "invalid_request"),
        (b'{"domain": "bad input"}', "empty_upload"),
        (b'{"domain": "bad input", "image": 5}', "empty_upload"),
        (b'{"domain": "bad input", "image": ""}', "empty_upload"),
        (b'{"domain": "bad input", "image": "!!!!"}', "invalid_request"),
        (b'{"domain": 7, "image": "%s"}' % base64.b64encode(PHOTO), "invalid_parameters"),
        (b'{"domain": "bad input", "image": "/9j/"}', "invalid_image"),
        (b"[" * 100_000, "invalid_request"),
    ],
)
def test_bad_json(http, domain, body, code):
    answer = http.post("/recognize", content=body, headers={"Content-Type": "application/json"})
    assert (400 <= answer.status_code < 500, answer.json()["code"]) == (True, code), answer.text


def test_a_broken_multipart_body_is_an_answer(http):
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    for body in (
        b"",
        b"--xyz",
        b"--xyz\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nabc",
        b"\x00" * 5000,
    ):
        answer = http.post("/recognize", params={"domain": "bad input"}, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text


def test_an_upload_that_is_too_long_is_refused(http, domain):
    answer = http.post("/recognize", params={"domain": domain}, content=bytes(33 * 1024 * 1024))
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": "wrong"}, {"Authorization": "Bearer wrong"}, {"x-api-key": "ключ".encode()}]
)
@pytest.mark.parametrize("path", ["/recognize", "/v1/domains", "/metrics", "/openapi.json", "/docs/", "/nothing"])
def test_without_the_key_nothing_is_answered(service, path, headers):
    import httpx

    for method in ("GET", "POST"):
        answer = httpx.request(
            method,
            service.url + path,
            headers=headers,
            content=io.BytesIO(b"x" * 1000) if method == "POST" else None,
            timeout=60,
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert service.key not in answer.text


def test_both_headers_carry_the_key(service):
    import httpx

    for headers in ({"x-api-key": service.key}, {"Authorization": f"Bearer {service.key}"}):
        assert httpx.get(service.url + "/v1/domains", headers=headers, timeout=60).status_code == 200


def test_basic_authentication_opens_the_documentation_only(service):
    import httpx

    auth = httpx.BasicAuth("", service.key)
    assert httpx.get(service.url + "/openapi.json", auth=auth, timeout=60).status_code == 200
    assert httpx.get(service.url + "/docs/swagger", auth=auth, timeout=60).status_code == 200
    assert httpx.get(service.url + "/v1/domains", auth=auth, timeout=60).status_code == 401


NAMES = [
    "山田\u3000太郎",
    "Jean\u00a0Luc",
    "\U0001f469\u200d\U0001f680" * 60,
    "../x",
    "..",
    "Škoda",
    "a/b",
    "😀",
    "O'Brien; DROP TABLE persons",
    "100%",
    "a?b#c",
    "a\\b",
    "x" * 200,
    "2024",
    "%2e%2e",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_names_a_domain_and_a_person(http, name):
    made = http.post("/v1/domains", json={"name": name})
    assert made.status_code == 201, made.text
    domain = made.json()
    assert domain["name"] == name
    path = f"/v1/domains/{domain['id']}"
    try:
        person = http.post(f"{path}/persons", json={"label": name}).raise_for_status().json()
        assert person["label"] == person["display_name"] == name
        assert http.get(f"{path}/persons/{person['id']}").json() == person
        assert [item["label"] for item in http.get(f"{path}/persons", params={"q": name}).json()["items"]] == [name]
        assert http.post(f"{path}/persons", json={"label": name}).json()["code"] == "person_exists"
        # Two pages, though the cursor between them holds the name.
        other = http.post(f"{path}/persons", json={"label": name[:100] + "z"}).raise_for_status().json()
        first = http.get(f"{path}/persons", params={"limit": 1}).json()
        second = http.get(f"{path}/persons", params={"limit": 1, "cursor": first["next_cursor"]}).json()
        assert {item["id"] for item in first["items"] + second["items"]} == {person["id"], other["id"]}
        http.delete(f"{path}/persons/{other['id']}").raise_for_status()
        assert http.post("/v1/domains", json={"name": name}).json()["code"] == "domain_exists"
        # By the person's id, since many of these cannot stand in a path.
        enrolled = http.post(f"{path}/persons/{person['id']}/faces", files={"file": PHOTO})
        assert enrolled.json()["person"]["label"] == name
        told = http.post("/recognize", data={"domain": name}, files={"file": PHOTO}).json()
        assert told["best_match"]["person_name"] == name
    finally:
        assert http.delete(path).json()["deleted"] == name


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "x" * 300, "a\u0000b", "a\nb"])
def test_names_that_cannot_be_kept(http, domain, name):
    assert http.post("/v1/domains", json={"name": name}).json()["code"] == "invalid_name"
    assert http.post(f"/v1/domains/{domain}/persons", json={"label": name}).json()["code"] == "invalid_name"


@pytest.mark.parametrize("body", [{}, {"name": 5}, {"name": "x", "colour": "red"}])
def test_a_domain_needs_a_name(http, body):
    answer = http.post("/v1/domains", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameters")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"7"])
def test_what_is_no_json_object_says_what_to_send(http, body):
    for headers in ({"Content-Type": "application/json"}, {}):
        answer = http.post("/v1/domains", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 501},
        {"limit": "x"},
        {"cursor": "%%%"},
        {"cursor": "W10"},
        {"cursor": "WyJhXHUwMDAwYiJd"},
        {"page": 2},
    ],
)
def test_bad_pages(http, domain, query):
    for path in ("/v1/domains", f"/v1/domains/{domain}/persons"):
        assert http.get(path, params=query).status_code in (400, 422)


def test_unknown_things_are_not_found(http, domain):
    assert http.get("/v1/domains/nowhere").json()["code"] == "domain_not_found"
    assert http.get(f"/v1/domains/{domain}/persons/nobody").json()["code"] == "person_not_found"
    assert http.patch(f"/v1/domains/{domain}/persons/nobody", json={"label": "x"}).json()["code"] == "person_not_found"
    assert http.delete(f"/v1/domains/{domain}/persons/nobody").json()["code"] == "person_not_found"
    assert http.get(f"/v1/domains/{domain}/persons/nobody/faces").json()["code"] == "person_not_found"
    assert http.get("/v1/nothing").json()["code"] == "not_found"
    assert http.put("/v1/domains").json()["code"] == "method_not_allowed"


def test_a_request_id_of_the_client_is_kept_and_a_wild_one_replaced(http):
    assert http.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    for wild in ("a b", "x" * 65, 'a"b'):
        assert http.get("/healthz", headers={"X-Request-ID": wild}).headers["x-request-id"] != wild


def raw_request(service, data: bytes) -> bytes:
    """What the server answers to these very bytes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("chunk", [b"zz\r\nabc\r\n0\r\n\r\n", b"-5\r\nabc\r\n0\r\n\r\n", b"ffffffffffffffff\r\nabc"])
def test_a_broken_chunk_is_a_bad_request(service, domain, chunk):
    for path in ("/recognize?domain=x", "/v1/domains"):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {service.key}\r\nTransfer-Encoding: chunked\r\n"
        answer = raw_request(service, f"{head}Content-Type: application/json\r\n\r\n".encode() + chunk)
        assert answer.split(b" ")[1].startswith(b"4"), answer


@pytest.mark.parametrize("header", ["SCRIPT_NAME: /x", "PATH_INFO: /healthz", "Script-Name: /x", "Path-Info: /healthz"])
def test_a_header_does_not_move_a_request(service, header):
    for key, path, status in ((service.key, "/v1/domains", b"200"), ("wrong", "/v1/domains", b"401")):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n{header}\r\nConnection: close\r\n\r\n"
        assert raw_request(service, request.encode()).split(b" ")[1] in (status, b"400")


def test_a_body_without_a_picture_is_small(http):
    json_header = {"Content-Type": "application/json"}
    answer = http.post("/v1/domains", content=b'{"name": "' + b"x" * 100_000 + b'"}', headers=json_header)
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    keys = b",".join(b'"%d": 1' % n for n in range(3000))
    answer = http.post("/v1/domains", content=b"{" + keys + b"}", headers=json_header)
    assert answer.status_code == 422
    assert len(answer.content) < 10_000


def test_a_request_that_is_answered_before_it_is_read_leaves_its_connection_usable(service):
    """One connection for all: a client that finds it closed gets an error instead of an answer."""
    too_long, json_header = b'{"name": "' + b"x" * 300_000 + b'"}', {"Content-Type": "application/json"}
    photo_of_two_megabytes = b"\xff\xd8" + bytes(2_000_000)
    with service.client() as http:
        for _ in range(30):
            answer = http.post("/v1/domains", content=too_long, headers=json_header)
            assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
            answer = http.post("/recognize", content=photo_of_two_megabytes, headers={"x-api-key": "wrong"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_names_that_are_no_utf8_are_refused(service, http, domain):
    for path in (f"/v1/domains/{domain}/persons/Jos%e9/faces", "/v1/domains/Jos%e9"):
        head = f"GET {path.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\nx-api-key: {service.key}\r\nConnection: close\r\n\r\n"
        assert b"invalid_name" in raw_request(service, head.encode())


def test_a_person_that_comes_and_goes_is_there_or_not_found(http, domain):
    done = threading.Event()

    def change(http=http) -> None:
        while not done.is_set():
            http.post(f"/v1/domains/{domain}/persons", json={"label": "fleeting"})
            http.delete(f"/v1/domains/{domain}/persons/fleeting")

    changer = threading.Thread(target=change)
    changer.start()
    try:
        seen = {http.get(f"/v1/domains/{domain}/persons/fleeting").status_code for _ in range(300)}
    finally:
        done.set()
        changer.join()
    http.delete(f"/v1/domains/{domain}/persons/fleeting")
    assert seen <= {200, 404}
