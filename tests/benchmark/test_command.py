"""`flask benchmark` on a running service with one person in one domain."""

import json

import pytest

from app.api.wiring import build_app
from app.config import parse_settings
from tests.pictures import faceless, portrait
from tests.service.running import RunningService
from tests.service.searching import superuser

pytestmark = pytest.mark.service

NAMES = [
    "search of one client",
    "cache hit",
    "throughput under concurrency",
    "pooled connection",
    "repeated enrolment",
]


@pytest.fixture
def commands(service: RunningService):
    """Commands beside the running service, in this process."""
    app = build_app(parse_settings(storage_dir=service.storage))
    yield app.test_cli_runner()
    app.extensions["facedex"].database.close()


@pytest.fixture
def client(service: RunningService, http):
    assert http.post("/v1/domains", json={"name": "Mérida / bench"}).status_code == 201
    uid = next(item["id"] for item in http.get("/v1/domains").json()["items"] if item["name"] == "Mérida / bench")
    yield uid
    assert http.delete(f"/v1/domains/{uid}").status_code == 200


def tables(service: RunningService) -> list[str]:
    with superuser(service.storage) as connection:
        return [name for (name,) in connection.execute("SELECT relname FROM pg_class ORDER BY 1")]


def test_five_comparisons_are_told_as_json_and_nothing_is_left(
    service: RunningService, commands, http, client: str, tmp_path
) -> None:
    refused = commands.invoke(args=("benchmark", "--client", client))
    assert (refused.exit_code, refused.stderr) == (1, "Error: The client has no face: enrol somebody first.\n")
    path = f"/v1/domains/{client}/persons/astronaut/faces"
    assert http.post(path, files={"file": portrait().read_bytes()}).status_code == 201
    before = tables(service)
    done = service.flask("benchmark", "--client", "Mérida / bench", "--iterations", "2", "--json", check=False)
    assert done.returncode in (0, 3), done.stderr
    told = json.loads(done.stdout)
    assert [comparison["name"] for comparison in told["comparisons"]] == NAMES
    for comparison in told["comparisons"]:
        naive, own = comparison["naive"]["median_ms"], comparison["own"]["median_ms"]
        expected = naive / own - 1 if comparison["measure"] == "rate" else 1 - own / naive
        assert comparison["faster_percent"] == pytest.approx(100 * expected, abs=0.06)
        assert comparison["holds"] == (comparison["faster_percent"] > comparison["claim_percent"][1])
    assert told["all_hold"] == all(comparison["holds"] for comparison in told["comparisons"])
    assert done.returncode == (0 if told["all_hold"] else 3)
    assert "clients of 1000 templates" in done.stderr
    assert tables(service) == before

    unknown = commands.invoke(args=("benchmark", "--client", "nobody"))
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: There is no domain named 'nobody'.\n")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(faceless())
    nobody = commands.invoke(args=("benchmark", "--client", client, "--photo", str(photo)))
    assert nobody.exit_code == 1
    assert nobody.stderr.endswith("\nError: There is no face on the photo.\n")
