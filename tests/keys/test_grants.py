from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.errors import InvalidRequest, KeyNotAllowed
from app.keys.grants import MAX_DOMAINS, Grant
from app.keys.principal import ADMIN, Principal, Scope
from app.keys.service import within_maker
from app.tenancy import Reach

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
TENANT = Principal(
    "t",
    frozenset({Scope.ADMIN, Scope.RECOGNIZE}),
    Reach("t", frozenset({"hers"}), frozenset({1})),
    rate_per_minute=10,
    expires_at=LATER,
)


def grant(**changes) -> Grant:
    return Grant(**{"scopes": frozenset({Scope.RECOGNIZE}), "domains": frozenset({"hers"}), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": frozenset()},
        {"domains": frozenset()},
        {"every_domain": True},
        {"domains": frozenset(map(str, range(MAX_DOMAINS + 1)))},
        {"expires_at": NOW},
        {"expires_at": datetime(2031, 1, 1)},
        {"rate_per_minute": 0},
    ],
)
def test_what_no_key_can_be_is_refused(changes):
    with pytest.raises(InvalidRequest):
        grant(**changes).require_sound(NOW)


def test_a_sound_grant_passes():
    grant(expires_at=LATER, rate_per_minute=1).require_sound(NOW)
    grant(domains=frozenset(), every_domain=True).require_sound(NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": frozenset({Scope.RECOGNIZE, Scope.EMBED})},
        {"domains": frozenset(), "every_domain": True},
        {"rate_per_minute": 11},
        {"rate_per_minute": None},
        {"expires_at": LATER + timedelta(seconds=1)},
        {"expires_at": None},
    ],
)
def test_a_key_gives_nothing_that_it_has_not_itself(changes):
    wanted = grant(**{"rate_per_minute": 10, "expires_at": LATER, **changes})
    with pytest.raises(KeyNotAllowed):
        wanted.require_within(TENANT)


def test_what_is_not_said_is_as_the_makers():
    within_maker(grant(), TENANT).require_within(TENANT)
    assert within_maker(grant(), TENANT) == grant(rate_per_minute=10, expires_at=LATER)
    assert within_maker(grant(), ADMIN) == grant()


@pytest.mark.parametrize(("rate", "allowed"), [(None, True), (600, True), (601, False)])
def test_a_key_without_a_rate_of_its_own_gives_no_more_than_the_usual_one(rate, allowed):
    maker = replace(TENANT, rate_per_minute=None)
    wanted = grant(rate_per_minute=rate, expires_at=LATER)
    wanted.require_within(maker)
    wanted.require_within(ADMIN, usual_rate=600)
    with nullcontext() if allowed else pytest.raises(KeyNotAllowed, match="600"):
        wanted.require_within(maker, usual_rate=600)


def test_the_admin_key_may_give_everything():
    grant(domains=frozenset(), every_domain=True, scopes=frozenset(Scope)).require_within(ADMIN)
