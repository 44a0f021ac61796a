"""Every operation of the API, with a key of another tenant and with one that lacks the scope: no row, and no hint."""

import json
import re
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from app.keys.principal import Scope
from tests import pictures
from tests.service.operations import Operation, operations

pytestmark = pytest.mark.service

# What differs between any two answers.
_CHANGING = re.compile(r'"(request_id|elapsed_time)": ?("[^"]*"|[\d.e-]+)|"timings_ms": ?\{[^}]*\}')
_CHANGING_HEADERS = {"date", "x-request-id"}


@dataclass
class Tenant:
    """A domain with a person, a face and a key; `names` are what requests call them."""

    names: dict[str, str]
    domain_id: str
    person_id: str
    name: str
    key: str

    @property
    def traces(self) -> set[str]:
        """What no answer to others may hold."""
        return {*self.names.values(), self.domain_id, self.person_id, self.name}


def make_tenant(http: httpx.Client, domain: str, label: str) -> Tenant:
    info = http.post("/v1/domains", json={"name": domain}).raise_for_status().json()
    files = {"file": pictures.portrait().read_bytes()}
    path = f"/v1/domains/{domain}/persons/{label}"
    enrolled = http.post(f"{path}/faces", files=files).raise_for_status().json()
    shown = f"Shown {label}"
    http.patch(path, json={"display_name": shown}).raise_for_status()
    wanted = {"name": f"key of {domain}", "scopes": list(Scope), "domains": [domain]}
    key = http.post("/v1/keys", json=wanted).raise_for_status().json()
    names = {
        "domain": domain,
        "label": label,
        "face_id": enrolled["results"][0]["face"]["id"],
        "key_id": key["id"],
        "person_id": enrolled["person"]["id"],
    }
    session = http.post(f"/v1/domains/{domain}/sessions", json={"kind": "verify", "person": label})
    names["session_id"] = session.raise_for_status().json()["id"]
    return Tenant(names, info["id"], enrolled["person"]["id"], shown, key["key"])


@pytest.fixture(scope="module")
def tenants(service):
    """The one that attacks, and the one that is attacked."""
    with service.client() as http:
        made = [make_tenant(http, "wall-mine", "she-herself"), make_tenant(http, "wall-hers", "somebody-ok")]
        yield made
        for tenant in made:
            http.delete(f"/v1/domains/{tenant.names['domain']}").raise_for_status()


@pytest.fixture(scope="module")
def document(service):
    with service.client() as http:
        return http.get("/openapi.json").json()


def as_client(service, key: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"x-api-key": key}, timeout=60)


def unknown_names(tenant: Tenant) -> dict[str, str]:
    """Names as long as the tenant's, which nobody has."""
    made = {name: "q" * len(value) for name, value in tenant.names.items()}
    return made | {name: str(uuid4()) for name in ("face_id", "key_id", "person_id", "session_id")}


def told(answer: httpx.Response, names: dict[str, str]) -> tuple:
    """The answer without what differs between any two, and without the names that the request has sent itself."""
    body = _CHANGING.sub("", answer.text)
    for name, value in sorted(names.items(), key=lambda item: -len(item[1])):
        body = body.replace(value, f"<{name}>").replace(json.dumps(value)[1:-1], f"<{name}>")
    headers = {name: value for name, value in answer.headers.items() if name not in _CHANGING_HEADERS}
    if "elapsed_time" in answer.text:
        headers.pop("content-length")
    return answer.status_code, headers, body


def everything_of(http: httpx.Client, tenant: Tenant) -> list[str]:
    """What is stored of a tenant, as its administrator sees it."""
    base = f"/v1/domains/{tenant.names['domain']}"
    persons = http.get(f"{base}/persons").raise_for_status().text
    faces = http.get(f"{base}/persons/{tenant.names['label']}/faces").raise_for_status().text
    keys = [key for key in http.get("/v1/keys?limit=500").json()["items"] if key["id"] == tenant.names["key_id"]]
    return [persons, faces, json.dumps(keys)]


def test_a_key_of_another_tenant_gets_the_answers_of_names_that_do_not_exist(service, http, tenants, document):
    mine, theirs = tenants
    before = everything_of(http, theirs)
    differing, hints = [], []
    by_id = theirs.names | {"domain": theirs.domain_id, "label": theirs.person_id}
    with as_client(service, mine.key) as attacker:
        for operation in operations(document):
            for given in (theirs.names, by_id):
                unknown = unknown_names(theirs) | (
                    {"domain": str(uuid4()), "label": str(uuid4())} if given is by_id else {}
                )
                real, made_up = operation.send(attacker, given), operation.send(attacker, unknown)
                if told(real, given) != told(made_up, unknown):
                    differing.append((str(operation), told(real, given), told(made_up, unknown)))
                left = told(real, given)[2]
                hints += [(str(operation), trace) for trace in theirs.traces if trace in left]
                assert real.status_code < 500, (operation, real.text)
    assert differing == []
    assert hints == []
    assert everything_of(http, theirs) == before


def test_the_ids_of_another_tenants_things_are_nobodys_in_ones_own_domain(service, http, tenants, document):
    mine, theirs = tenants
    before = everything_of(http, theirs)
    given = theirs.names | {"label": theirs.person_id, "from": theirs.person_id, "actual": theirs.person_id}
    unknown = unknown_names(theirs) | {name: str(uuid4()) for name in ("label", "from", "actual")}
    with as_client(service, mine.key) as attacker:
        for operation in operations(document):
            if not {"{label}", "{key_id}", "{session_id}"} & set(operation.path.split("/")):
                continue
            if operation.method == "post" and operation.path.endswith("/faces"):
                continue  # makes persons, of any label that is new
            if operation.path.endswith("/stream"):
                continue  # for whoever has its token
            own = {"domain": mine.names["domain"]}
            real, made_up = operation.send(attacker, given | own), operation.send(attacker, unknown | own)
            assert (real.status_code, real.json()["code"]) == (404, made_up.json()["code"]), (operation, real.text)
    assert everything_of(http, theirs) == before


def test_every_operation_that_names_a_tenants_things_refuses_the_key_of_another(service, tenants, document):
    mine, theirs = tenants
    with as_client(service, mine.key) as attacker:
        for operation in operations(document):
            if operation.by_token:  # no key opens these: see test_streams.py
                assert operation.send(attacker, theirs.names).status_code == 401, operation
            elif "{" in operation.path and not operation.installation:
                answer = operation.send(attacker, theirs.names)
                assert answer.status_code == 404, (operation, answer.text)
        refused = attacker.post(
            "/recognize", data={"domain": "wall-hers"}, files={"file": pictures.portrait().read_bytes()}
        )
        assert (refused.status_code, refused.json()["code"]) == (404, "domain_not_found")


@pytest.fixture(scope="module")
def key_without(service):
    """Makes a key of a tenant with all scopes but those that an operation needs."""
    made: dict[frozenset[str], str] = {}

    def make(operation: Operation, tenant: Tenant) -> str:
        scopes = frozenset(Scope) - set(operation.scopes)
        if scopes not in made:
            wanted = {"name": "poor", "scopes": sorted(scopes), "domains": [tenant.names["domain"]]}
            with service.client() as http:
                made[scopes] = http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
        return made[scopes]

    return make


def test_a_key_that_lacks_the_scope_is_refused_before_anything_is_looked_up(
    service, http, tenants, document, key_without
):
    _, theirs = tenants
    before = everything_of(http, theirs)
    for operation in operations(document):
        if not operation.scopes:
            continue
        with as_client(service, key_without(operation, theirs)) as poor:
            unknown = unknown_names(theirs)
            real, made_up = operation.send(poor, theirs.names), operation.send(poor, unknown)
        assert (real.status_code, real.json()["code"]) == (403, "scope_missing"), (operation, real.text)
        assert told(real, theirs.names) == told(made_up, unknown), operation
    assert everything_of(http, theirs) == before


def test_the_same_requests_find_what_is_ones_own(service, tenants, document):
    """Else the answers to the others would say little."""
    mine, _ = tenants
    asked = [
        operation for operation in operations(document) if operation.method == "get" and not operation.installation
    ]
    assert len(asked) >= 7
    with as_client(service, mine.key) as client:
        answers = {str(operation): operation.send(client, mine.names) for operation in asked}
    missing = ("domain_not_found", "person_not_found", "face_not_found", "key_not_found")
    assert [name for name, answer in answers.items() if any(code in answer.text for code in missing)] == []
    assert sum(answer.status_code == 200 for answer in answers.values()) >= 7


def test_what_is_the_whole_installations_is_refused_to_a_tenant_with_every_scope(service, http, tenants, document):
    mine, theirs = tenants
    checked = [operation for operation in operations(document) if operation.installation]
    assert len(checked) >= 3
    with as_client(service, mine.key) as tenant:
        for operation in checked:
            for names in (mine.names, theirs.names):
                answer = operation.send(tenant, names)
                assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), operation
    http.get("/v1/domains/wall-mine").raise_for_status()


def test_lists_hold_only_what_is_ones_own(service, tenants):
    mine, theirs = tenants
    with as_client(service, mine.key) as client:
        assert [found["name"] for found in client.get("/v1/domains").json()["items"]] == ["wall-mine"]
        keys = client.get("/v1/keys").json()["items"]
        assert {key["id"] for key in keys} == {mine.names["key_id"]}
        assert client.get(f"/v1/domains/wall-mine/persons/{theirs.person_id}").status_code == 404
        found = client.post(
            "/recognize", data={"domain": "wall-mine"}, files={"file": pictures.portrait().read_bytes()}
        )
        assert found.json()["best_match"]["person_name"] == f"Shown {mine.names['label']}"
