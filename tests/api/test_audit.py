"""A domain's events over HTTP."""

import pytest
from sqlalchemy import select, text

from app import audit
from app.api.wiring import build_app
from app.db.models import Domain, Person
from app.db.session import Database
from app.keys.admin_key import create_admin_key
from app.tenancy import everything, set_reach
from tests.db_server import Maker, random_units


@pytest.fixture
def app(database_settings, make_gallery: Maker, tmp_path):
    make_gallery("people", random_units(1, 8))
    make_gallery("others", random_units(1, 8))
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    create_admin_key(settings.admin_key_file)
    app = build_app(settings)
    yield app
    app.extensions["facedex"].database.close()
    set_reach(everything("test"))


@pytest.fixture
def get(app, tmp_path):
    secret = (tmp_path / "admin.key").read_text().strip()
    return lambda path: app.test_client().get(path, headers={"x-api-key": secret, "X-Request-ID": "r-9"})


@pytest.fixture
def people(database: Database, app) -> list:
    """Ids of the persons of ten events of the domain, five of them about each."""
    with database.transaction() as session:
        domain_id = session.scalar(select(Domain.id).where(Domain.name == "people"))
        ids = [session.scalar(select(Person.id).where(Person.domain_id == domain_id)), domain_id]
        for number in range(10):
            persons = [ids[0]] if number % 2 else []
            audit.record(
                session, "test.odd" if number % 2 else "test.even", domain_id=domain_id, persons=persons, n=number
            )
    return ids


def test_events_come_the_latest_first_and_in_pages(get, people) -> None:
    first = get("/v1/domains/people/audit?limit=4").json
    assert [item["details"]["n"] for item in first["items"]] == [9, 8, 7, 6]
    assert first["head"] == f"10:{first['items'][0]['hash']}"
    assert first["items"][0]["client"] == "test"
    rest = get(f"/v1/domains/people/audit?limit=6&cursor={first['next_cursor']}").json
    assert [item["seq"] for item in rest["items"]] == [6, 5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None


def test_events_are_chosen_by_action_and_person(get, people) -> None:
    odd = get("/v1/domains/people/audit?action=test.odd").json["items"]
    assert [item["details"]["n"] for item in odd] == [9, 7, 5, 3, 1]
    about = get(f"/v1/domains/people/audit?person={people[0]}").json["items"]
    assert about == odd
    assert get("/v1/domains/people/audit?person=00000000-0000-0000-0000-000000000001").json["items"] == []


def test_an_event_that_was_tampered_with_is_shown_as_far_as_it_can_be_read(get, people, database: Database) -> None:
    for body in ("x", "[]", "7", '{"action": "y"}'):
        with database.maintenance() as connection:
            connection.execute(text("UPDATE audit_events SET body = :body WHERE seq = 10"), {"body": body})
        for query in ("", f"&person={people[0]}", "&action=test.odd"):
            assert get(f"/v1/domains/people/audit?limit=3{query}").status_code == 200
    assert get("/v1/domains/people/audit").json["items"][0]["action"] == "y"


def test_a_domains_list_has_nothing_of_others(get, people) -> None:
    assert get("/v1/domains/others/audit").json["items"] == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=501", 422),
        ("cursor=x", 400),
        ("cursor=WyItMSJd", 400),  # ["-1"]
        ("action=x", 422),
        ("action=a.b%25", 422),
        ("person=x", 422),
    ],
)
def test_bad_queries_are_refused(get, people, query: str, status: int) -> None:
    assert get(f"/v1/domains/people/audit?{query}").status_code == status


def test_an_unknown_domain_is_not_found(get, people) -> None:
    assert get("/v1/domains/nobody/audit").json["code"] == "domain_not_found"


def test_what_is_changed_over_http_is_in_the_audit_with_its_request(get, people, app) -> None:
    secret = app.extensions["facedex"].settings.admin_key_file.read_text().strip()
    headers = {"x-api-key": secret, "X-Request-ID": "r-1"}
    face = app.test_client().get("/v1/domains/people/persons/p0/faces", headers=headers).json["items"][0]["id"]
    path = f"/v1/domains/people/persons/p0/faces/{face}"
    assert app.test_client().delete(path, headers=headers).status_code == 204
    event = get("/v1/domains/people/audit?limit=1").json["items"][0]
    assert (event["action"], event["client"], event["request_id"]) == ("face.deleted", "admin", "r-1")
    assert event["persons"] == [str(people[0])]
