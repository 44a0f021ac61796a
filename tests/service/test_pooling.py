"""Connections that the server closes between two requests."""

import pytest

from tests.service.running import RunningService
from tests.service.searching import superuser

pytestmark = pytest.mark.service

_CLOSE_ALL = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE application_name = 'facedex'"


def test_nobody_notices_that_the_server_has_closed_all_idle_connections(service: RunningService) -> None:
    with service.client() as http, superuser(service.storage) as connection:
        closed = 0
        for _ in range(3):
            for _ in range(8):  # so that both processes have connections
                with service.client() as other:
                    assert other.get("/v1/domains").status_code == 200
            (count,) = connection.execute(_CLOSE_ALL).fetchone()
            closed += count
            answers = [http.get("/v1/domains").status_code for _ in range(4)]
            for _ in range(4):
                with service.client() as other:
                    answers.append(other.get("/v1/domains").status_code)
            assert set(answers) == {200}
        assert closed >= 3
