"""Real photos through the real service: pool, database, HTTP."""

import io
import json
import shutil

import httpx
import pytest
from PIL import Image

from tests import pictures
from tests.packs import scrfd_folder
from tests.service.running import RunningService, eventually

pytestmark = pytest.mark.service


@pytest.fixture
def domain(http):
    """A new, empty domain; its name cannot stand in a path."""
    name = "tests: a/b Škoda"
    info = http.post("/v1/domains", json={"name": name}).raise_for_status().json()
    yield info
    http.delete(f"/v1/domains/{info['id']}").raise_for_status()


def enrol(http: httpx.Client, domain: dict, label: str, *files) -> httpx.Response:
    parts = [("file", (f"{n}.jpg", data)) for n, data in enumerate(files)]
    return http.post(f"/v1/domains/{domain['id']}/persons/{label}/faces", files=parts)


def recognize(http: httpx.Client, domain: dict, data: bytes, **parameters) -> dict:
    answer = http.post("/recognize", data={"domain": domain["name"], **parameters}, files={"file": data})
    return answer.raise_for_status().json()


def test_what_is_enrolled_is_found_by_the_next_request_and_what_is_deleted_never_again(http, domain):
    photo = pictures.portrait().read_bytes()
    assert recognize(http, domain, photo)["best_match"] is None
    enrolled = enrol(http, domain, "Eileen Collins", photo)
    assert enrolled.status_code == 201, enrolled.text
    assert enrolled.json()["person"]["faces"] == 1
    told = recognize(http, domain, photo)
    assert told["best_match"]["person_name"] == "Eileen Collins"
    assert told["mode"] == "pgvector"
    # The process that answers may have looked at it before.
    assert set(told["timings_ms"]) in ({"decode", "detect", "embed", "search"}, {"cache", "search"})
    face_id = enrolled.json()["results"][0]["face"]["id"]
    path = f"/v1/domains/{domain['id']}/persons/Eileen Collins"
    assert http.delete(f"{path}/faces/{face_id}").status_code == 204
    assert recognize(http, domain, photo)["best_match"] is None
    assert http.delete(path).json()["embeddings"] == 0
    assert http.get(path).json()["code"] == "person_not_found"


def test_all_three_ways_to_send_a_picture_give_the_same_answer(http, domain):
    import base64

    photo = pictures.portrait().read_bytes()
    enrol(http, domain, "her", photo)
    name = domain["name"]
    answers = [
        http.post("/recognize", data={"domain": name}, files={"file": photo}),
        http.post("/recognize", params={"domain": name}, content=photo, headers={"Content-Type": "image/png"}),
        http.post("/recognize", params={"domain": name}, content=photo),
        http.post("/recognize", json={"domain": name, "image": base64.b64encode(photo).decode()}),
        http.post(
            "/recognize", json={"domain": name, "image": "data:image/png;base64," + base64.b64encode(photo).decode()}
        ),
    ]
    told = [answer.raise_for_status().json() for answer in answers]
    assert {json.dumps(answer["faces"]) for answer in told} == {json.dumps(told[0]["faces"])}
    assert told[0]["best_match"]["person_name"] == "her"


def test_a_group_photo_names_its_one_known_face(http, domain):
    photo = Image.open(pictures.group_photo()).convert("RGB")
    enrol(http, domain, "third", pictures.encode(photo.crop((663, 273, 900, 540)), quality=95)).raise_for_status()
    told = recognize(http, domain, pictures.group_photo().read_bytes())
    assert len(told["faces"]) == 6
    assert [person["name"] for person in told["recognized_persons"]] == ["third"]
    box = told["recognized_persons"][0]["face_coordinates"]
    assert 663 < box["x"] < box["x"] + box["w"] < 900


def test_boxes_of_a_turned_photo_lie_where_a_viewer_sees_the_faces(http, domain):
    photo = Image.open(pictures.group_photo()).convert("RGB")
    upright = recognize(http, domain, pictures.encode(photo, quality=95))
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees, clockwise
    turned = pictures.encode(photo.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes(), quality=95)
    told = recognize(http, domain, turned)
    assert told["image"] == upright["image"] == {"width": 1280, "height": 886}
    corners = [sorted((face["box"]["x"], face["box"]["y"]) for face in answer["faces"]) for answer in (told, upright)]
    assert len(corners[0]) == len(corners[1]) == 6
    for (x1, y1), (x2, y2) in zip(*corners, strict=True):
        assert abs(x1 - x2) < 12
        assert abs(y1 - y2) < 12


def test_each_file_of_an_upload_is_answered_on_its_own(http, domain):
    good = pictures.portrait().read_bytes()
    saved_again = io.BytesIO()
    Image.open(pictures.portrait()).convert("RGB").save(saved_again, "JPEG", quality=90)
    answer = enrol(
        http,
        domain,
        "her",
        good,
        b"not a picture",
        pictures.faceless(),
        pictures.group_photo().read_bytes(),
        pictures.blurred_face(),
        b"",
    )
    assert answer.status_code == 201
    told = answer.json()
    codes = [result.get("code") for result in told["results"]]
    assert codes == [None, "invalid_image", "no_face", "several_faces", "face_blurred", "empty_upload"]
    assert (told["enrolled"], told["rejected"], told["failed"]) == (1, 5, 0)
    again = enrol(http, domain, "her", good, saved_again.getvalue())
    assert again.status_code == 409
    assert [result["code"] for result in again.json()["results"]] == ["duplicate", "duplicate"]
    assert http.get(f"/v1/domains/{domain['id']}").json()["embeddings"] == 1


def test_a_person_is_not_made_by_pictures_that_are_all_rejected(http, domain):
    answer = enrol(http, domain, "nobody", pictures.faceless(), b"junk")
    assert answer.status_code == 422
    assert answer.json()["code"] == "no_face"
    assert answer.json()["person"] is None
    assert http.get(f"/v1/domains/{domain['id']}/persons").json()["items"] == []


def test_two_domains_never_see_each_other(http, domain):
    photo = pictures.portrait().read_bytes()
    other = http.post("/v1/domains", json={"name": "other tenant"}).raise_for_status().json()
    try:
        enrol(http, other, "her", photo).raise_for_status()
        told = recognize(http, domain, photo)
        assert told["best_match"] is None
        assert told["faces"][0]["candidates"] == []
        assert http.get(f"/v1/domains/{domain['id']}/persons/her").status_code == 404
    finally:
        http.delete(f"/v1/domains/{other['id']}").raise_for_status()


def test_a_stricter_threshold_names_nobody(http, domain):
    photo = Image.open(pictures.portrait()).convert("RGB")
    enrol(http, domain, "her", pictures.encode(photo)).raise_for_status()
    mirrored = pictures.encode(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert recognize(http, domain, mirrored)["best_match"]["person_name"] == "her"
    assert recognize(http, domain, mirrored, threshold="0.00001")["best_match"] is None


@pytest.fixture(scope="module")
def galleries(tmp_path_factory):
    """Images 1 to 7 of all ten persons, and of eight only, one folder per person, as links."""
    root = tmp_path_factory.mktemp("galleries")
    persons = list(pictures.lfw10())
    for name, members in (("lfw10", persons), ("eight", persons[:8])):
        for person in members:
            (root / name / person).mkdir(parents=True)
            for picture in pictures.lfw10()[person][: pictures.GALLERY_SIZE]:
                (root / name / person / picture.name).symlink_to(picture)
    yield root
    shutil.rmtree(root)


def name_of(http: httpx.Client, domain: str, picture) -> str | None:
    told = recognize(http, {"name": domain}, picture.read_bytes())
    return told["best_match"]["person_name"] if told["best_match"] else None


def probe_outcomes(http: httpx.Client) -> tuple[int, list[str]]:
    """How many of the thirty probes are named right, and which are named wrong."""
    right, wrong = 0, []
    for person, photos in pictures.lfw10().items():
        for picture in photos[pictures.GALLERY_SIZE :]:
            named = name_of(http, "lfw10", picture)
            right += named == person
            wrong += [picture.name] if named not in (None, person) else []
    return right, wrong


def strangers_named(http: httpx.Client) -> list[str]:
    strangers = [picture for person in list(pictures.lfw10())[8:] for picture in pictures.lfw10()[person]]
    assert len(strangers) == 20
    return [picture.name for picture in strangers if name_of(http, "eight", picture) is not None]


def test_ten_persons_enrolled_by_command_are_named_over_http(service, http, galleries):
    done = service.flask("enrol", "lfw10", str(galleries / "lfw10"), "--json")
    assert json.loads(done.stdout)["enrolled"] == 70
    again = json.loads(service.flask("enrol", "lfw10", str(galleries / "lfw10"), "--json").stdout)
    assert (again["enrolled"], again["already_enrolled"]) == (0, 70)
    right, wrong = probe_outcomes(http)
    assert wrong == []
    assert right >= 28
    service.flask("enrol", "eight", str(galleries / "eight"))
    assert strangers_named(http) == []
    for name in ("lfw10", "eight"):
        service.flask("domains", "delete", name, "--yes")


def test_another_pack_names_all_thirty_and_never_meets_the_first_ones_embeddings(tmp_path, galleries):
    folder = scrfd_folder()
    service = RunningService(tmp_path / "storage", env={"JOBS_WORKERS": "0"})
    try:
        service.start()
        with service.client() as http:
            http.post("/v1/domains", json={"name": "before"}).raise_for_status()
            photo = pictures.portrait().read_bytes()
            http.post("/v1/domains/before/persons/her/faces", files={"file": photo}).raise_for_status()
        options = ["--accept-license", "--license", "for tests", "--threshold", "0.6"]
        service.flask("models", "install", "scrfd", "--from", str(folder), *options)
        service.flask("models", "use", "scrfd")
        # It counts from the next start on; until then, nothing changes for anybody, not even for a worker that starts anew.
        for worker in service.pool()[1]:
            worker.kill()
        eventually(lambda: httpx.get(service.url + "/readyz", timeout=60).status_code == 200)
        with service.client() as http:
            assert recognize(http, {"name": "before"}, photo)["model"] == "dlib"
            assert http.post("/v1/domains", json={"name": "during"}).json()["model"]["name"] == "dlib"
        service.flask("domains", "create", "by command")
        assert "dlib" in service.flask("domains", "show", "by command").stdout
        assert service.stop() == 0

        service.start()
        with service.client() as http:
            service.flask("enrol", "lfw10", str(galleries / "lfw10"))
            assert probe_outcomes(http) == (30, [])
            service.flask("enrol", "eight", str(galleries / "eight"))
            assert strangers_named(http) == []
            for answer in (
                http.post("/recognize", data={"domain": "before"}, files={"file": photo}),
                http.post("/v1/domains/before/persons/him/faces", files={"file": photo}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (409, "contract_mismatch")
            assert http.get("/v1/domains/before").json()["persons"] == 1
        assert service.stop() == 0
    finally:
        service.kill()
