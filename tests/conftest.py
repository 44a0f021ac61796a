import os
import shutil
import tempfile
from pathlib import Path

import pytest

from app.config import ENV_FILE, Settings

# The operator's own settings are not the tests'; above all not their database.
for _name in Settings.model_fields:
    os.environ.pop(_name.upper(), None)
os.environ[ENV_FILE] = os.devnull

from app.tenancy import everything, set_reach  # noqa: E402
from tests.packs import install_dlib  # noqa: E402
from tests.service.running import RunningService, running_service  # noqa: E402

# A test acts for everybody, where it does not say for whom; threads of its own have to be told (`app.tenancy.carried`).
set_reach(everything("test"))


@pytest.fixture(autouse=True)
def _reach():
    """A request that a test makes in its own thread, through Flask's client, leaves the reach of its key behind."""
    set_reach(everything("test"))


_OWN_FOLDER = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Temporary folders with short paths: a Unix socket's has to fit into 108 bytes, and a service with a longer one puts its
    sockets elsewhere, where nobody would remove them.
    """
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = config.stash[_OWN_FOLDER] = tempfile.mkdtemp(prefix="fdx-")


# Files that take long by themselves: with several processes, the last to end is then a short one.
_LONG_FILES = (
    "tests/service/test_pool_faults.py",
    "tests/embedder/test_killed_workers.py",
    "tests/service/test_idempotent_kills.py",
    "tests/service/test_mutated_pictures.py",
    "tests/service/test_schemathesis.py",
    "tests/service/test_walls.py",
    "tests/service/",
    "tests/embedder/",
    "tests/cli/",
)


def pytest_collection_modifyitems(items):
    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(item.config.rootpath).as_posix()
        return next((place for place, start in enumerate(_LONG_FILES) if name.startswith(start)), len(_LONG_FILES))

    items.sort(key=rank)


def pytest_sessionfinish(session, exitstatus):
    """What failed is left to be looked at."""
    if exitstatus == pytest.ExitCode.OK and (folder := session.config.stash.get(_OWN_FOLDER, None)):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> RunningService:
    """One running service for all tests that leave it as they found it."""
    # All tests are one address, and many of them show no key, or a wrong one.
    env = {"AUTH_FAILURES_PER_MINUTE": "100000"}
    with running_service(tmp_path_factory.mktemp("service") / "storage", env=env) as running:
        yield running


@pytest.fixture
def http(service):
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the default pack; pools link to its files, so nobody may write into them."""
    folder = tmp_path_factory.mktemp("models")
    install_dlib(folder)
    return folder
