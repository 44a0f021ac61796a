"""How the services of a process are put together."""

import pytest

from app.api import wiring
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
