import pytest

from tests.service.running import RunningService, running_service


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> RunningService:
    """One running service for all tests that leave it as they found it."""
    with running_service(tmp_path_factory.mktemp("service") / "storage") as running:
        yield running


@pytest.fixture
def http(service):
    with service.client() as client:
        yield client
