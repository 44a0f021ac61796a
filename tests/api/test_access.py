"""What each route asks of a key."""

import pytest

from app import create_app
from app.api.access import PUBLIC_PATHS, Access, access, access_of, check_access
from app.config import parse_settings
from app.errors import ScopeMissing
from app.keys.principal import ADMIN, Principal, Scope
from app.tenancy import Reach, everything


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return create_app(parse_settings(storage_dir=tmp_path_factory.mktemp("storage")))


def principal(*scopes: Scope, reach: Reach | None = None) -> Principal:
    return Principal("somebody", frozenset(scopes), reach or Reach("somebody", frozenset({"hers"})))


def test_every_route_says_what_it_asks_of_a_key_or_is_public(app):
    silent = {rule.rule for rule in app.url_map.iter_rules() if access_of(app, rule.endpoint) is None}
    assert silent == PUBLIC_PATHS


def test_a_route_without_a_declaration_is_open_to_nobody_not_even_to_the_admin(app):
    with pytest.raises(ScopeMissing, match="nobody"):
        check_access(app, "no such endpoint", ADMIN)


def test_one_of_several_scopes_suffices():
    needed = Access((Scope.ENROL, Scope.VERIFY))
    needed.check(principal(Scope.VERIFY, Scope.RECOGNIZE))
    with pytest.raises(ScopeMissing, match="scope enrol or verify"):
        needed.check(principal(Scope.RECOGNIZE))


def test_without_scopes_any_key_will_do():
    Access().check(principal(Scope.RECOGNIZE))


def test_what_is_the_whole_installations_needs_every_domain_within_reach():
    needed = Access((Scope.ADMIN,), installation=True)
    with pytest.raises(ScopeMissing, match="for every domain"):
        needed.check(principal(Scope.ADMIN))
    with pytest.raises(ScopeMissing, match="scope admin"):
        needed.check(principal(Scope.ENROL, reach=everything("somebody")))
    needed.check(principal(Scope.ADMIN, reach=everything("somebody")))


def test_a_declaration_leaves_the_view_as_it_is():
    def view() -> str:
        return "answer"

    assert access(Scope.ENROL)(view) is view


def test_what_a_token_opens_is_declared_and_asks_for_no_scope(app):
    by_token = {
        rule.rule for rule in app.url_map.iter_rules() if (told := access_of(app, rule.endpoint)) and told.by_token
    }
    assert by_token == {"/v1/sessions/<session_id>/stream"}
    told = app.api_doc["paths"]["/v1/sessions/{session_id}/stream"]["get"]
    assert (told["x-facedex-token"], told["x-facedex-scopes"], told["security"]) == (True, [], [{"session": []}])
    assert told["description"].count("Needs the session's token") == 1


def test_the_openapi_document_says_what_each_operation_needs(app):
    paths = app.api_doc["paths"]
    assert paths["/recognize"]["post"]["x-facedex-scopes"] == ["recognize"]
    assert paths["/v1/domains/{domain}"]["delete"]["x-facedex-installation"] is True
    assert "Needs an API key with the scope enrol." in paths["/v1/domains/{domain}/persons"]["get"]["description"]
    without = [path for path, methods in paths.items() for told in methods.values() if "x-facedex-scopes" not in told]
    assert set(without) == PUBLIC_PATHS
