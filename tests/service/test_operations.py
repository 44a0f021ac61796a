"""How the running service says it is, to those who look after it and to nobody else."""

import pickle
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.error_rates.comparing import Templates
from tests import pictures
from tests.db_server import normalised
from tests.error_rates.oracle import expected
from tests.service.running import eventually

pytestmark = pytest.mark.service

DOMAIN = "operations"


@pytest.fixture(autouse=True, scope="module")
def _domain(service):
    with service.client() as http:
        http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status()
        yield
        http.delete(f"/v1/domains/{DOMAIN}").raise_for_status()


def key_for(http: httpx.Client, *scopes: str, **reach) -> dict[str, str]:
    wanted = {"name": "test", "scopes": scopes} | (reach or {"domains": [DOMAIN]})
    return {"x-api-key": http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]}


def told(http: httpx.Client) -> dict:
    return http.get("/v1/operations").raise_for_status().json()


def test_workers_jobs_and_the_cache_are_told(http):
    before = told(http)
    assert before["problems"] == []
    assert before["pool"]["model"] == "dlib"
    assert {worker["state"] for worker in before["pool"]["workers"]} <= {"idle", "busy"}
    assert not {"pid", "contract"} & set(before["pool"]["workers"][0])

    def counted() -> bool:  # what was told last may be a second old, and each process has a cache of its own
        photo = pictures.portrait().read_bytes()
        http.post("/recognize", data={"domain": DOMAIN}, files={"file": photo}).raise_for_status()
        now = told(http)
        return (
            now["pool"]["jobs"].get("ok", 0) > before["pool"]["jobs"].get("ok", 0)
            and now["cache"]["hits"] > before["cache"]["hits"]
            and now["cache"]["misses"] > before["cache"]["misses"]
            and 0 < now["cache"]["hit_rate"] < 1
        )

    eventually(counted)
    # Other tests of the same service may have left jobs, in any state.
    queue = told(http)["queue"]
    assert queue["waiting"] == sum(count["jobs"] for count in queue["counts"] if count["state"] == "queued")


def test_only_who_operates_the_whole_installation_is_told(http, service):
    for headers in (
        key_for(http, "admin"),
        key_for(http, "enrol", "recognize", every_domain=True),
    ):
        answer = httpx.get(f"{service.url}/v1/operations", headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    answer = httpx.get(f"{service.url}/v1/operations", headers=key_for(http, "admin", every_domain=True), timeout=60)
    assert answer.status_code == 200


def test_migrations_are_those_of_the_keys_domains(http, service, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    service.flask("migrate-pkl", "--domain", name, "--path", str(dataset()))
    try:
        [item] = [item for item in http.get("/v1/migrations").json()["items"] if item["domain"] == name]
        assert (item["migration"]["state"], item["migration"]["rows_done"]) == ("finished", item["migration"]["rows"])
        answer = httpx.get(f"{service.url}/v1/migrations", headers=key_for(http, "recognize"), timeout=60)
        assert answer.json()["items"] == []
        mine = key_for(http, "recognize", domains=[name])
        items = httpx.get(f"{service.url}/v1/migrations", headers=mine, timeout=60).json()["items"]
        assert [one["domain"] for one in items] == [name]
    finally:
        [made] = [domain for domain in http.get("/v1/domains").json()["items"] if domain["name"] == name]
        http.delete(f"/v1/domains/{made['id']}").raise_for_status()
    assert http.get("/v1/migrations?limit=0").status_code == 422


def dataset() -> Path:
    """Of 73 photos of lfw10, as DeepFace wrote it."""
    folder = pictures.SHARED / "datasets/deepface-0.0.93"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    return folder


def templates_of(folder: Path) -> Templates:
    """What a migration makes of it, without one."""
    [path] = folder.glob("*.pkl")
    rows = pickle.loads(path.read_bytes())
    names = [Path(row["identity"]).parent.name for row in rows]
    order = np.argsort(names, kind="stable")
    vectors = normalised(np.array([row["embedding"] for row in rows], np.float32))[order]
    return Templates(vectors, np.unique(np.array(names)[order], return_inverse=True)[1])


def test_error_rates_of_photos_are_those_that_counting_one_by_one_finds(http, service):
    folder = dataset()
    service.flask("migrate-pkl", "--domain", "lfw10 rates", "--path", str(folder))
    templates = templates_of(folder)
    at = expected(templates, 0.07, 0.01)
    try:
        answer = http.get("/v1/domains/lfw10 rates/error-rates?rate=0.05").raise_for_status().json()
        assert answer["gallery"] == {"persons": 10, "templates": len(templates)}
        assert answer["sample"] == answer["gallery"] | {"probes": len(templates), "complete": True}
        counted = {
            name: (rate["errors"], rate["trials"])
            for part in ("verification", "identification")
            for name, rate in answer[part]["current"].items()
            if name != "threshold"
        }
        assert counted == {"fmr": at.fmr, "fnmr": at.fnmr, "fpir": at.fpir, "fnir": at.fnir}
        assert at.fpir[0] == 0
        assert answer["identification"]["current"]["fpir"]["high"] == pytest.approx(3 / at.fpir[1])
        for part, positive, negative in (("verification", "fmr", "fnmr"), ("identification", "fpir", "fnir")):
            chosen = answer[part]["chosen"]
            there = expected(templates, chosen["threshold"], 0.01)
            counted = chosen[positive]["errors"], chosen[negative]["errors"]
            assert counted == (getattr(there, positive)[0], getattr(there, negative)[0])
            assert chosen[positive]["rate"] <= 0.05
        assert answer["verification"]["chosen"]["fmr"]["errors"] > at.fmr[0]
        headers = key_for(http, "recognize", domains=["lfw10 rates"])
        refused = httpx.get(f"{service.url}/v1/domains/lfw10 rates/error-rates", headers=headers, timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
        for wrong in ("rate=0", "rate=1", "threshold=0", "rate=nan", "nothing=1"):
            assert http.get(f"/v1/domains/lfw10 rates/error-rates?{wrong}").status_code == 422, wrong
        assert http.get("/v1/domains/nowhere/error-rates").status_code == 404
        printed = service.flask("domains", "error-rates", "lfw10 rates", "--rate", "0.01").stdout
        assert f"FPIR 0 of {at.fpir[1]}: below 0.041" in printed
        assert f"({at.fnmr[0]} of {at.fnmr[1]};" in printed
    finally:
        http.delete("/v1/domains/lfw10 rates").raise_for_status()
