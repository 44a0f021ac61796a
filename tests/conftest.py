import os
import shutil
import tempfile
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from app.config import ENV_FILE, Settings

# The operator's own settings are not the tests'; above all not their database.
for _name in Settings.model_fields:
    os.environ.pop(_name.upper(), None)
os.environ[ENV_FILE] = os.devnull

# A process of tests is configured by several programs in turn, the service and the edge. A logger that keeps what it was first
# used with would say nothing to a later test that listens (`structlog.testing.capture_logs`).
_configure = structlog.configure
structlog.configure = lambda **options: _configure(**options | {"cache_logger_on_first_use": False})

# No test asserts a time, and an example that a busy machine was slow with is none that is wrong.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# An assertion of a module beside the tests says what it compared, as one of a test does.
_beside = {path.stem for path in Path(__file__).parent.glob("[a-z]*")} - {"conftest"}
pytest.register_assert_rewrite(*(f"tests.{name}" for name in _beside))

from app.tenancy import everything, set_reach  # noqa: E402
from tests import prepared  # noqa: E402
from tests.db_server import (  # noqa: E402, F401 -- fixtures
    _administrator,
    database,
    database_settings,
    empty_database_settings,
    make_gallery,
    server_settings,
)
from tests.service.running import RunningService, running_service  # noqa: E402

# A test acts for everybody, where it does not say for whom; threads of its own have to be told (`app.tenancy.carried`).
set_reach(everything("test"))


@pytest.fixture(autouse=True)
def _reach():
    """A request that a test makes in its own thread, through Flask's client, leaves the reach of its key behind, and its id."""
    set_reach(everything("test"))
    structlog.contextvars.clear_contextvars()


_OWN_FOLDERS = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Temporary folders with short paths: a Unix socket's has to fit into 108 bytes, and a service with a longer one puts its
    sockets elsewhere, where nobody would remove them. And one for what all processes of the run make once.
    """
    if not hasattr(config, "workerinput"):
        made = config.stash[_OWN_FOLDERS] = [tempfile.mkdtemp(prefix="fdx-")]
        os.environ[prepared.FOLDER] = made[0]
        # No test speaks TLS, and each of their thousands of HTTP clients would read the machine's certificates first.
        os.environ.pop("SSL_CERT_FILE", None)
        os.environ["SSL_CERT_DIR"] = tempfile.mkdtemp(dir=made[0])
        if config.option.basetemp is None:
            config.option.basetemp = tempfile.mkdtemp(prefix="fdx-")
            made.append(config.option.basetemp)


# Files that take long by themselves, then the folders of such: with several processes, the last to end is a short one.
_LONG_FILES = (
    "tests/service/test_fallback.py",
    "tests/service/test_schemathesis.py",
    "tests/service/test_mutated_pictures.py",
    "tests/service/test_processes.py",
    "tests/service/test_idempotent_kills.py",
    "tests/service/test_pool_faults.py",
    "tests/service/test_keys.py",
    "tests/db/test_embedded.py",
    "tests/embedder/test_poison.py",
    "tests/embedder/test_killed_workers.py",
    "tests/datasets/test_migrate_kills.py",
    "tests/service/",
    "tests/frontend/",
    "tests/embedder/",
    "tests/erasure/test_purge.py",
    "tests/edge/test_histories.py",
    "tests/edge/test_end_to_end.py",
    "tests/benchmark/",
    "tests/cli/",
    "tests/db/",
    "tests/datasets/",
)


def pytest_collection_modifyitems(items):
    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(item.config.rootpath).as_posix()
        return next((place for place, start in enumerate(_LONG_FILES) if name.startswith(start)), len(_LONG_FILES))

    items.sort(key=rank)


def pytest_sessionfinish(session, exitstatus):
    """What failed is left to be looked at."""
    if exitstatus == pytest.ExitCode.OK:
        for folder in session.config.stash.get(_OWN_FOLDERS, []):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> RunningService:
    """One running service for all tests that leave it as they found it."""
    # All tests are one address, and many of them show no key, or a wrong one.
    env = {"AUTH_FAILURES_PER_MINUTE": "100000", "STORE_IMAGES": "true"}
    with running_service(tmp_path_factory.mktemp("service") / "storage", env=env, fresh=True) as running:
        yield running


@pytest.fixture
def http(service):
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the default pack; pools link to its files, so nobody may write into them."""
    folder = tmp_path_factory.mktemp("models")
    prepared.put_models(folder)
    return folder
