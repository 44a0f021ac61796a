"""How the services of a process are put together."""

from dataclasses import fields

import pytest

from app.api import wiring
from app.api.sweeping import MinutelySweep
from app.config import parse_settings
from app.db.breaker import CircuitBreaker


def test_all_that_ask_the_database_share_one_circuit_breaker(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    made: list[CircuitBreaker] = []

    def make() -> CircuitBreaker:
        made.append(CircuitBreaker())
        return made[-1]

    monkeypatch.setattr(wiring, "CircuitBreaker", make)
    wiring.build_services(parse_settings(storage_dir=tmp_path))
    assert len(made) == 1


def test_every_sweep_is_seen_to(tmp_path) -> None:
    """By web processes and jobs workers, which both go through `sweeps`."""
    built = wiring.build_services(parse_settings(storage_dir=tmp_path))
    made = [getattr(built, field.name) for field in fields(built)]
    assert [sweep for sweep in made if isinstance(sweep, MinutelySweep)] == list(built.sweeps)
