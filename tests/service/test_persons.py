"""Persons over HTTP and by command: windows, metadata, merges, rejections, duplicates, and what is wrong with each."""

import json
from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest
from PIL import Image

from tests import pictures

pytestmark = pytest.mark.service


@pytest.fixture
def domain(http):
    name = "tests of persons"
    http.post("/v1/domains", json={"name": name}).raise_for_status()
    yield name
    http.delete(f"/v1/domains/{name}").raise_for_status()


@pytest.fixture
def persons(domain) -> str:
    return f"/v1/domains/{domain}/persons"


def portrait(*, mirrored: bool = False) -> bytes:
    photo = Image.open(pictures.portrait()).convert("RGB").crop((90, 30, 400, 330)).resize((450, 435))
    return pictures.encode(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo, quality=95)


def enrol(http: httpx.Client, path: str, *photos: bytes) -> dict:
    files = [("file", (f"{n}.jpg", photo)) for n, photo in enumerate(photos)]
    return http.post(f"{path}/faces", files=files).raise_for_status().json()


def recognize(http: httpx.Client, domain: str, photo: bytes, **parameters) -> dict:
    answer = http.post("/recognize", data={"domain": domain, **parameters}, files={"file": photo})
    return answer.raise_for_status().json()


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_person_has_all_that_was_said_of_them(http, persons):
    said = {
        "label": "Ana",
        "external_id": "R-17/1",
        "valid_from": "2026-03-29T03:30:00+02:00",
        "valid_until": "9999-12-31T23:59:59Z",
        "metadata": {"room": 12, "tags": ["VIP", None], "škoda": "😀"},
    }
    made = http.post(persons, json=said)
    assert made.status_code == 201
    told = made.json()
    assert (told["valid_from"], told["valid_until"]) == ("2026-03-29T01:30:00+00:00", "9999-12-31T23:59:59+00:00")
    assert (told["external_id"], told["metadata"], told["display_name"]) == ("R-17/1", said["metadata"], "Ana")
    assert http.get(f"{persons}/{told['id']}").json() == told
    listed = http.get(persons, params={"external_id": "R-17/1"}).json()
    assert (listed["items"], listed["total"]) == ([told | {"quality": None, "has_image": False}], 1)
    changed = http.patch(
        f"{persons}/Ana", json={"label": None, "external_id": None, "valid_until": None, "metadata": {"a": 1}}
    ).json()
    assert changed["label"] == "Ana"
    assert (changed["external_id"], changed["valid_until"], changed["metadata"]) == (None, None, {"a": 1})
    assert changed["valid_from"] == told["valid_from"]
    assert problem(http.post(persons, json={"label": told["id"]})) == (409, "person_exists")


def test_outside_of_their_window_nobody_knows_a_person(http, domain, persons):
    enrol(http, f"{persons}/Eileen", portrait())
    moment = datetime.now(UTC)
    zone = timezone(timedelta(hours=-9, minutes=-30))
    hour = timedelta(hours=1)
    for until, known in ((moment - hour, False), (moment + hour, True)):
        person = http.patch(f"{persons}/Eileen", json={"valid_until": until.astimezone(zone).isoformat()}).json()
        assert person["valid"] is known
        told = recognize(http, domain, portrait())
        assert (told["best_match"] is not None) is known
        assert bool(told["all_detected_matches"]) is known
        assert [face["decision"] for face in told["faces"]] == (["match"] if known else ["unknown"])
        assert bool(told["faces"][0]["candidates"]) is known


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"valid_from": "2026-01-01T00:00:00"}, "invalid_parameters", "valid_from: .*no zone"),
        ({"valid_until": "tomorrow"}, "invalid_parameters", "ISO 8601"),
        ({"valid_until": 1774744200}, "invalid_parameters", "as text"),
        ({"valid_until": "9999-12-31T23:59:59-01:00"}, "invalid_parameters", "years 1 to 9999"),
        ({"valid_until": "0001-01-01T00:00:00+14:00"}, "invalid_parameters", "years 1 to 9999"),
        ({"valid_from": "2026-01-01T01:00:00+01:00", "valid_until": "2026-01-01T00:00Z"}, "invalid_validity", "before"),
        ({"metadata": []}, "invalid_parameters", "metadata"),
        ({"metadata": "x"}, "invalid_parameters", "metadata"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata_too_large", "16384"),
        (
            {"metadata": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}}}},
            "invalid_metadata",
            "nest",
        ),
        ({"metadata": {"a": "\0"}}, "invalid_metadata", "NUL"),
        ({"metadata": {"\0": 1}}, "invalid_metadata", "NUL"),
        ({"external_id": ""}, "invalid_name", "external id"),
        ({"external_id": "a\0b"}, "invalid_name", "control"),
        ({"external_id": 7}, "invalid_parameters", "external_id"),
        ({"rejected": True}, "invalid_parameters", "rejected"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_changes(http, persons, body, code, says):
    import re

    before = http.post(persons, json={"label": "Ana", "metadata": {"a": 1}}).json()
    for answer in (http.post(persons, json={"label": "Bor", **body}), http.patch(f"{persons}/Ana", json=body)):
        assert problem(answer) == (422, code)
        assert re.search(says, answer.json()["detail"])
    assert http.get(f"{persons}/Ana").json() == before
    assert http.get(persons).json()["total"] == 1


def test_hostile_metadata_are_an_error_like_any_other(http, persons):
    http.post(persons, json={"label": "Ana"}).raise_for_status()
    # An answer that comes before the body was read ends the connection.
    headers = {"Content-Type": "application/json", "Connection": "close"}
    for body, expected in (
        (b'{"metadata": {"a": "' + b"x" * 10_000_000 + b'"}}', (413, "upload_too_large")),
        (b'{"metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 901, (422, "invalid_metadata")),
        (b'{"metadata": {"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}", (400, "invalid_request")),
        (b'{"metadata": {"a": "\\ud800"}}', (422, "invalid_metadata")),
        (b'{"metadata": {"a": 1e999}}', (422, "invalid_metadata")),
        (b'{"metadata": {"a": NaN}}', (400, "invalid_request")),
        (b'{"metadata": {"a": ' + b"9" * 20_000 + b"}}", (400, "invalid_request")),
        (b'{"metadata": {' + b",".join(b'"%d": 1e308' % n for n in range(100)) + b"}}", (422, "metadata_too_large")),
    ):
        answer = http.patch(f"{persons}/Ana", content=body, headers=headers)
        assert problem(answer) == expected, body[:40]
    assert http.get(f"{persons}/Ana").json()["metadata"] == {}


def test_two_persons_become_one(http, domain, persons):
    enrol(http, f"{persons}/Eileen", portrait())
    told = enrol(http, f"{persons}/E. Collins", portrait(mirrored=True))
    [warning] = told["results"][0]["warnings"]
    assert (warning["code"], warning["person"]["label"]) == ("resembles_other", "Eileen")
    [pair] = http.get(f"/v1/domains/{domain}/duplicates").raise_for_status().json()["items"]
    assert {person["label"] for person in pair["persons"]} == {"Eileen", "E. Collins"}
    assert pair["distance"] == pytest.approx(warning["distance"], abs=1e-4)
    assert recognize(http, domain, portrait())["faces"][0]["decision"] == "ambiguous"

    for body, expected in (
        ({"from": "Eileen"}, (422, "merge_with_itself")),
        ({"from": "nobody"}, (404, "person_not_found")),
        ({"from": "\0"}, (422, "invalid_name")),
        ({}, (422, "invalid_parameters")),
        ({"from": 1}, (422, "invalid_parameters")),
        ({"from": "E. Collins", "to": "x"}, (422, "invalid_parameters")),
    ):
        assert problem(http.post(f"{persons}/Eileen/merge", json=body)) == expected
    merged = http.post(f"{persons}/Eileen/merge", json={"from": "E. Collins"}).raise_for_status().json()
    assert (merged["moved"], merged["dropped"], merged["person"]["faces"]) == (1, 0, 2)
    assert problem(http.post(f"{persons}/Eileen/merge", json={"from": "E. Collins"})) == (404, "person_not_found")
    assert recognize(http, domain, portrait())["faces"][0]["decision"] == "match"
    assert http.get(f"/v1/domains/{domain}").json()["embeddings"] == 2
    assert http.get(f"/v1/domains/{domain}/duplicates").json()["items"] == []


def test_not_this_person(http, domain, persons):
    """Show 6 over HTTP: Colin Powell is not enrolled, the bar is lowered, and Tony Blair is named for him."""
    faces = pictures.lfw10()
    lowered = {"threshold": "0.12"}
    for name in ("Tony_Blair", "Jacques_Chirac", "Gerhard_Schroeder"):
        enrol(http, f"{persons}/{name}", *(photo.read_bytes() for photo in faces[name][: pictures.GALLERY_SIZE]))

    def blairs() -> set[str]:
        named = {photo: recognize(http, domain, photo.read_bytes(), **lowered) for photo in faces["Colin_Powell"]}
        return {photo.name for photo, told in named.items() if "Tony_Blair" in str(told["recognized_persons"])}

    def right() -> list[bool]:
        return [
            recognize(http, domain, photo.read_bytes(), **lowered)["best_match"]["person_name"] == name
            for name in ("Tony_Blair", "Jacques_Chirac", "Gerhard_Schroeder")
            for photo in faces[name][pictures.GALLERY_SIZE :]
        ]

    wrong = blairs()
    assert len(wrong) > 3, "else this would show nothing"
    assert right() == [True] * 9
    first = next(photo for photo in faces["Colin_Powell"] if photo.name in wrong)
    rejections = f"{persons}/Tony_Blair/rejections"
    said = http.post(rejections, files={"file": first.read_bytes()})
    assert said.status_code == 201, said.text
    again = http.post(rejections, content=first.read_bytes())
    assert (again.status_code, again.json()) == (200, said.json())
    assert http.get(rejections).json()["items"] == [said.json()]
    told = recognize(http, domain, first.read_bytes(), **lowered)
    for part in ("faces", "all_detected_matches", "recognized_persons", "best_match"):
        assert "Tony_Blair" not in json.dumps(told[part])
    assert blairs() == set()
    assert right() == [True] * 9

    assert http.delete(f"{rejections}/{said.json()['id']}").status_code == 204
    assert problem(http.delete(f"{rejections}/{said.json()['id']}")) == (404, "rejection_not_found")
    assert blairs() == wrong


def test_a_rejection_that_cannot_be_is_refused(http, persons):
    photo = pictures.portrait().read_bytes()
    saved_again = pictures.encode(Image.open(pictures.portrait()).convert("RGB"), quality=90)
    enrol(http, f"{persons}/Eileen", photo)
    http.post(persons, json={"label": "Bor"}).raise_for_status()
    path = f"{persons}/Eileen/rejections"
    group = pictures.group_photo().read_bytes()
    for path_, picture, parameters, expected in (
        (path, photo, {}, (409, "face_enrolled")),
        (path, saved_again, {}, (409, "face_enrolled")),
        (path, group, {}, (422, "several_faces")),
        (path, group, {"face": "6"}, (422, "no_face")),
        (path, group, {"face": "-1"}, (422, "invalid_parameters")),
        (path, group, {"face": "first"}, (422, "invalid_parameters")),
        (path, group, {"face": "0", "domain": "x"}, (422, "invalid_parameters")),
        (path, group, {"face": "0", "actual": "nobody"}, (404, "person_not_found")),
        (path, group, {"face": "0", "actual": "Eileen"}, (422, "same_person")),
        (path, b"not a picture", {}, (422, "invalid_image")),
        (path, b"", {}, (400, "empty_upload")),
        (f"{persons}/nobody/rejections", group, {"face": "0"}, (404, "person_not_found")),
        ("/v1/domains/nowhere/persons/Eileen/rejections", group, {"face": "0"}, (404, "domain_not_found")),
    ):
        answer = http.post(path_, data=parameters, files={"file": picture})
        assert problem(answer) == expected, (parameters, answer.text)
    assert http.get(path).json()["items"] == []
    made = http.post(path, data={"face": "5", "actual": "Bor"}, files={"file": group})
    assert (made.status_code, made.json()["face"], made.json()["actual"]["label"]) == (201, 5, "Bor")
    assert "embedding" not in made.text


def test_commands_list_show_merge_and_find_duplicates(service, http, domain, persons):
    enrol(http, f"{persons}/Eileen", portrait())
    enrol(http, f"{persons}/E. Collins", portrait(mirrored=True))
    http.patch(f"{persons}/Eileen", json={"external_id": "R-17", "valid_from": "2999-01-01T00:00Z"}).raise_for_status()
    listed = json.loads(service.flask("persons", "list", "--domain", domain, "--json").stdout)
    assert [(person["label"], person["faces"]) for person in listed] == [("E. Collins", 1), ("Eileen", 1)]
    shown = service.flask("persons", "show", "R-17", "--domain", domain).stdout
    assert "not now; from 2999-01-01T00:00:00+00:00 until ever" in shown
    [pair] = json.loads(service.flask("persons", "duplicates", "--domain", domain, "--json").stdout)
    assert {person["label"] for person in pair["persons"]} == {"E. Collins", "Eileen"}
    told = service.flask("persons", "merge", "Eileen", "E. Collins", "--domain", domain, "--yes").stdout
    assert "1 faces moved, 0 were there already; 2 faces now" in told
    assert "No two persons" in service.flask("persons", "duplicates", "--domain", domain).stdout
    assert "No face is far" in service.flask("persons", "outliers", "--domain", domain).stdout
    enrol(http, f"{persons}/Eileen", pictures.filling_portrait().read_bytes())
    wrong = json.loads(service.flask("persons", "outliers", "--domain", domain, "--json").stdout)
    assert wrong == http.get(f"/v1/domains/{domain}/outliers").json()["items"]
    assert {(one["person"]["label"], one["faces"], one["resembles"]) for one in wrong} >= {("Eileen", 3, None)}
    assert f"face {wrong[0]['face_id']} of 3" in service.flask("persons", "outliers", "--domain", domain).stdout
    wrong = service.flask("persons", "merge", "Eileen", "R-17", "--domain", domain, "--yes", check=False)
    assert wrong.returncode == 1
    assert "same person" in wrong.stderr


def test_what_is_sent_again_with_its_key_is_done_once(http, persons):
    enrol(http, f"{persons}/Eileen", portrait())
    enrol(http, f"{persons}/E. Collins", portrait(mirrored=True))
    group = pictures.group_photo().read_bytes()
    path, key = f"{persons}/Eileen/rejections", {"Idempotency-Key": "persons-1"}

    def reject(face: str, **headers: str) -> httpx.Response:
        return http.post(path, params={"face": face}, content=group, headers=headers)

    first, again = reject("0", **key), reject("0", **key)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert problem(http.post(path, params={"face": "0"}, content=group + b"\0", headers=key)) == (
        422,
        "idempotency_key_reused",
    )
    assert reject("0").status_code == 200
    merge = {"json": {"from": "E. Collins"}, "headers": {"Idempotency-Key": "persons-2"}}
    merged = [http.post(f"{persons}/Eileen/merge", **merge) for _ in range(2)]
    assert [answer.status_code for answer in merged] == [200, 200]
    assert merged[0].json() == merged[1].json()
