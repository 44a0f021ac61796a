"""The life of a key through the real service: over HTTP, by commands, with the database away."""

import json
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests import pictures
from tests.redis_server import redis_server
from tests.service.running import SMALL, RunningService, eventually, free_port, running_service
from tests.service.searching import content
from tests.service.test_fallback import (
    BY_CHOICE,
    FROM_PGVECTOR,
    NO_DATABASE,
    her_embedding,
    make_beside_dataset,
    outcome,
    put_dataset,
    recognize,
)

pytestmark = pytest.mark.service

__all__ = ["her_embedding"]

PHOTO = pictures.portrait().read_bytes()


def as_client(service: RunningService, key: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"x-api-key": key}, timeout=60)


def status(service: RunningService, key: str, path: str = "/v1/domains") -> int:
    with as_client(service, key) as client:
        return client.get(path).status_code


@pytest.fixture
def domains(http):
    """Two domains; each is deleted again."""
    names = ["keys-one", "keys-two"]
    for name in names:
        http.post("/v1/domains", json={"name": name}).raise_for_status()
    yield names
    for name in names:
        http.delete(f"/v1/domains/{name}").raise_for_status()


def new_key(http: httpx.Client, *domains: str, scopes=("recognize",), **more) -> dict:
    wanted = {"name": "a key", "scopes": list(scopes), "domains": list(domains), **more}
    return http.post("/v1/keys", json=wanted).raise_for_status().json()


def test_a_key_lives_from_its_making_to_its_revocation(service, http, domains):
    made = new_key(http, domains[0], scopes=["recognize", "enrol"], rate_per_minute=1000)
    assert made["key"].startswith(f"fdx_{made['prefix']}_")
    assert (made["state"], made["created_by"]) == ("active", "admin")
    with as_client(service, made["key"]) as client:
        enrolled = client.post(f"/v1/domains/{domains[0]}/persons/her/faces", files={"file": PHOTO})
        assert enrolled.status_code == 201
        assert "embedding" not in enrolled.text
        answer = recognize(client, domains[0])
        assert outcome(answer) == FROM_PGVECTOR
        assert int(answer.headers["RateLimit-Remaining"]) < 1000
        assert outcome(recognize(client, domains[1])) == (404, "domain_not_found")
        assert client.post("/v1/embeddings", files={"file": PHOTO}).json()["code"] == "scope_missing"
        assert client.get("/v1/keys").json()["code"] == "scope_missing"
    rotated = http.post(f"/v1/keys/{made['id']}/rotate", json={"grace_s": 3600}).raise_for_status().json()
    assert rotated["id"] == made["id"]
    assert (status(service, made["key"]), status(service, rotated["key"])) == (200, 200)
    again = http.post(f"/v1/keys/{made['id']}/rotate", json={}).raise_for_status().json()
    assert [status(service, key["key"]) for key in (made, rotated, again)] == [401, 401, 200]
    revoked = http.delete(f"/v1/keys/{made['id']}").raise_for_status().json()
    assert revoked["state"] == "revoked"
    # Each process of the web knows at once.
    assert {status(service, again["key"]) for _ in range(10)} == {401}
    assert http.post(f"/v1/keys/{made['id']}/rotate", json={}).json()["code"] == "key_ended"
    listed = http.get("/v1/keys?limit=500").json()["items"]
    assert [key["state"] for key in listed if key["id"] == made["id"]] == ["revoked"]
    assert again["key"] not in json.dumps(listed)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"scopes": []}, "invalid_parameters"),
        ({"scopes": ["everything"]}, "invalid_parameters"),
        ({"domains": []}, "invalid_request"),
        ({"every_domain": True}, "invalid_request"),
        ({"name": ""}, "invalid_name"),
        ({"name": "a\x00b"}, "invalid_name"),
        ({"domains": ["nowhere"]}, "domain_not_found"),
        ({"domains": [""]}, "invalid_name"),
        ({"domains": ["\ud800"]}, "invalid_name"),
        ({"rate_per_minute": 0}, "invalid_parameters"),
        ({"expires_at": "2020-01-01T00:00Z"}, "invalid_request"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "invalid_request"),
        ({"expires_at": "2040-01-01T00:00"}, "invalid_parameters"),
        ({"digest": "x"}, "invalid_parameters"),
    ],
)
def test_what_no_key_can_be_is_refused_and_nothing_is_made(http, domains, wanted, code):
    before = http.get("/v1/keys?limit=500").json()["items"]
    sound = {"name": "x", "scopes": ["recognize"], "domains": [domains[0]]}
    body = json.dumps(sound | wanted)  # httpx does not send lone surrogates, which ASCII with escapes can hold
    answer = http.post("/v1/keys", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["code"] == code
    assert http.get("/v1/keys?limit=500").json()["items"] == before


@pytest.mark.parametrize("which", ["nobody", "\x00", "\ud7ff", "x" * 65, "5f6cb2a5-0000-4000-8000-000000000000"])
def test_a_key_that_is_not_there_is_not_found(http, which):
    path = f"/v1/keys/{quote(which)}"
    for answer in (http.delete(path), http.post(f"{path}/rotate", json={})):
        assert answer.json()["code"] in ("key_not_found", "invalid_parameters"), answer.text


def test_the_commands_manage_keys_too(service, http, domains):
    done = service.flask(
        *("keys", "create", "--name", "door 7", "--domain", domains[0], "--domain", domains[1]),
        *("--scope", "recognize,verify", "--scope", "enrol", "--expires", "30d", "--rate", "600/min"),
    )
    key = done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert "cannot be shown again" in done.stderr
    assert status(service, key) == 200
    (listed,) = [
        each for each in json.loads(service.flask("keys", "list", "--json").stdout) if each["name"] == "door 7"
    ]
    assert listed["scopes"] == ["enrol", "recognize", "verify"]
    assert (listed["domains"], listed["rate_per_minute"], listed["created_by"]) == (domains, 600, "cli")
    assert listed["expires_at"] is not None
    shown = service.flask("keys", "list").stdout
    assert listed["prefix"] in shown
    assert "door 7" in shown
    rotated = service.flask("keys", "rotate", listed["prefix"], "--grace", "1h")
    assert "good until" in rotated.stderr
    assert (status(service, key), status(service, rotated.stdout.strip())) == (200, 200)
    assert "Revoked" in service.flask("keys", "revoke", listed["id"]).stdout
    assert (status(service, key), status(service, rotated.stdout.strip())) == (401, 401)
    assert "can be gone by" in service.flask("keys", "snapshot").stdout
    assert "can be gone by" in service.flask("keys", "snapshot", "--renew").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--name", "x", "--scope", "recognize"), "say one of the two"),
        (("create", "--name", "x", "--scope", "all", "--every-domain"), "is none of"),
        (("create", "--name", "x", "--scope", "recognize", "--domain", "nowhere"), "no domain named"),
        (("create", "--name", "x", "--scope", "recognize", "--every-domain", "--expires", "soon"), "no date like"),
        (
            ("create", "--name", "x", "--scope", "recognize", "--every-domain", "--expires", "2040-01-01"),
            "no time zone",
        ),
        (("create", "--name", "x", "--scope", "recognize", "--every-domain", "--rate", "fast"), "no rate like"),
        (("revoke", "nobody"), "There is no API key"),
        (("rotate", "nobody", "--grace", "long"), "no time like"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_in_a_line(service, arguments, said):
    done = service.flask("keys", *arguments, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def env_file(tmp_path) -> Path:
    file = tmp_path / "settings"
    file.write_text("VECTOR_DB_ENABLED=true\n")
    return file


def make_keys(http: httpx.Client, storage: Path, *domains: str) -> dict[str, dict]:
    for domain in domains:
        if http.post("/v1/domains", json={"name": domain}).status_code == 409:
            make_beside_dataset(storage, domain)
        http.post(f"/v1/domains/{domain}/persons/her/faces", files={"file": PHOTO}).raise_for_status()
    keys = {name: new_key(http, "mine") for name in ("kept", "revoked", "revoked later")}
    keys["theirs"] = new_key(http, "theirs")
    http.delete(f"/v1/keys/{keys['revoked']['id']}").raise_for_status()
    return keys


def test_with_postgres_killed_keys_go_on_working_and_revoked_ones_do_not(tmp_path, her_embedding):
    storage = tmp_path / "storage"
    put_dataset(storage, "mine", her_embedding)
    put_dataset(storage, "theirs", her_embedding)
    with running_service(storage, env=SMALL) as service, service.client() as http:
        eventually((storage / "keys.snapshot").exists)  # from its start on
        keys = make_keys(http, storage, "mine", "theirs")
        with as_client(service, keys["kept"]["key"]) as client:
            assert outcome(recognize(client, "mine")) == FROM_PGVECTOR
            supervisor = psutil.Process(service.process.pid)
            supervisor.suspend()  # nobody starts the database again
            try:
                service.postmaster().kill()
                eventually(lambda: outcome(recognize(client, "mine")) == NO_DATABASE)
                foreign, missing = recognize(client, "theirs"), recognize(client, "nobody")
                assert outcome(foreign) == outcome(missing) == (503, "database_unavailable")
                assert client.get("/v1/domains").json()["code"] == "database_unavailable"
                assert client.get("/v1/keys").json()["code"] == "scope_missing"
                for name in ("revoked", "theirs"):
                    with as_client(service, keys[name]["key"]) as other:
                        assert outcome(recognize(other, "mine"))[0] == (401 if name == "revoked" else 503)
                revoked = service.flask("keys", "revoke", keys["revoked later"]["prefix"])
                assert "It has not been told" in revoked.stderr
                assert status(service, keys["revoked later"]["key"]) == 401
                assert outcome(recognize(http, "mine")) == NO_DATABASE  # the admin key
                assert (
                    http.post("/v1/keys", json={"name": "x", "scopes": ["embed"], "domains": ["mine"]}).status_code
                    == 503
                )
                assert http.delete(f"/v1/keys/{keys['kept']['id']}").status_code == 503
            finally:
                supervisor.resume()
            eventually(lambda: outcome(recognize(client, "mine")) == FROM_PGVECTOR)
        assert status(service, keys["revoked later"]["key"]) == 401
        eventually(lambda: stored_state(http, keys["revoked later"]) == "revoked")


def stored_state(http: httpx.Client, key: dict) -> str:
    (found,) = [each["state"] for each in http.get("/v1/keys?limit=500").json()["items"] if each["id"] == key["id"]]
    return found


def test_without_a_database_by_choice_a_tenant_has_its_dataset_alone_until_the_snapshot_is_too_old(
    tmp_path, her_embedding, env_file
):
    storage = tmp_path / "storage"
    put_dataset(storage, "mine", her_embedding)
    put_dataset(storage, "theirs", her_embedding)
    env_file.write_text("")
    with running_service(storage, "--env-file", str(env_file), env=SMALL) as service, service.client() as http:
        keys = make_keys(http, storage, "mine", "theirs")
    env_file.write_text("VECTOR_DB_ENABLED=false\n")
    with (
        running_service(storage, "--env-file", str(env_file), env=SMALL) as service,
        service.client() as http,
        as_client(service, keys["kept"]["key"]) as client,
    ):
        assert outcome(recognize(client, "mine")) == BY_CHOICE
        foreign, missing = recognize(client, "theirs"), recognize(client, "nobody")
        assert foreign.status_code == missing.status_code == 404
        assert foreign.json()["detail"].replace("theirs", "nobody") == missing.json()["detail"]
        assert foreign.headers.keys() == missing.headers.keys()
        assert recognize(http, "theirs").status_code == 200
        assert status(service, keys["revoked"]["key"]) == 401
        service.flask("keys", "revoke", keys["revoked later"]["id"])
        assert status(service, keys["revoked later"]["key"]) == 401
        assert "has not been told yet" in service.flask("keys", "snapshot").stdout
    env_file.write_text("VECTOR_DB_ENABLED=false\nKEY_SNAPSHOT_MAX_AGE_S=0.001\n")
    with running_service(storage, "--env-file", str(env_file), env=SMALL) as service, service.client() as http:
        with as_client(service, keys["kept"]["key"]) as client:
            refused = recognize(client, "mine")
            assert outcome(refused) == (503, "keys_unavailable")
            assert "Retry-After" in refused.headers
            assert outcome(recognize(http, "mine")) == BY_CHOICE
            assert status(service, "malformed") == 401
        assert "NOT gone by" in service.flask("keys", "snapshot").stdout
        assert "WRONG  keys" in service.flask("doctor", check=False).stdout
    env_file.write_text("")
    with running_service(storage, "--env-file", str(env_file), env=SMALL) as service, service.client() as http:
        assert status(service, keys["revoked later"]["key"]) == 401
        eventually(lambda: stored_state(http, keys["revoked later"]) == "revoked")
        assert status(service, keys["kept"]["key"]) == 200


def test_a_database_that_stops_answering_holds_no_tenant_up_for_long(tmp_path, her_embedding):
    storage = tmp_path / "storage"
    put_dataset(storage, "mine", her_embedding)
    with running_service(storage, env=SMALL) as service, service.client() as http:
        keys = make_keys(http, storage, "mine", "theirs")
        with as_client(service, keys["kept"]["key"]) as client:
            assert outcome(recognize(client, "mine")) == FROM_PGVECTOR
            postmaster = service.postmaster()
            stopped = [postmaster, *postmaster.children(recursive=True)]
            for process in stopped:
                process.suspend()
            try:
                answers = [outcome(recognize(client, "mine")) for _ in range(20)]
                assert set(answers) <= {NO_DATABASE, FROM_PGVECTOR}
                assert answers[-1] == NO_DATABASE
            finally:
                for process in reversed(stopped):
                    if process.is_running():
                        process.resume()
            eventually(lambda: outcome(recognize(client, "mine")) == FROM_PGVECTOR)


def test_with_redis_a_keys_rate_is_one_for_all_processes_and_a_dead_redis_fails_nobody(tmp_path):
    port = free_port()
    with (
        redis_server(tmp_path, port) as redis,
        running_service(
            tmp_path / "storage",
            env=SMALL | {"REDIS_URL": f"redis://127.0.0.1:{port}/0?socket_timeout=5", "WEB_WORKERS": "2"},
        ) as service,
        service.client() as http,
    ):
        key = new_key(http, scopes=["recognize"], every_domain=True, rate_per_minute=10)["key"]
        found = [status(service, key) for _ in range(30)]
        # The minute may be over in between.
        assert found[:11] == [200] * 10 + [429]
        assert set(found) == {200, 429}
        redis.kill()
        redis.wait()
        assert {status(service, key) for _ in range(30)} <= {200, 429}
        assert status(service, service.key) == 200


def test_no_log_and_no_file_holds_a_usable_key(service, http, domains):
    made = new_key(http, domains[0])
    status(service, made["key"])
    status(service, made["key"][:-1] + "_")
    secret = made["key"].rsplit(f"{made['prefix']}_", 1)[1].encode()
    holding = [path for path in service.storage.rglob("*") if "models" not in path.parts and secret in content(path)]
    assert holding == []
    assert made["prefix"] in (service.storage / "logs/gunicorn-error.log").read_text()  # the refused one


def test_a_key_is_made_once_for_an_idempotency_key_and_its_text_is_not_kept(service, http, domains):
    wanted = {"name": "made once", "scopes": ["recognize"], "domains": [domains[0]]}
    first, again = (http.post("/v1/keys", json=wanted, headers={"Idempotency-Key": "once-1"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() | {"key": None}
    listed = [key["id"] for key in http.get("/v1/keys?limit=500").json()["items"] if key["name"] == "made once"]
    assert listed == [first.json()["id"]]
    assert first.json()["prefix"] in service.flask("keys", "snapshot").stdout  # which follows what is committed
    assert status(service, first.json()["key"]) == 200
