"""`flask quarantine`, beside a real pool; it needs no model for that."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result

from app import create_app
from app.config import PROJECT_ROOT, Settings, parse_settings
from app.embedder.client import EmbedderClient
from app.embedder.quarantine import Quarantine
from app.errors import EmbedderUnavailable

_HELD = ["a1" * 32, "a2" * 32, "b1" * 32]
_STARTS_WITHIN_S = 60


def settings_in(folder: Path) -> Settings:
    found = parse_settings(storage_dir=folder)
    for needed in (found.run_dir, found.logs_dir):
        needed.mkdir()
    return found


@contextmanager
def running_pool(settings: Settings) -> Iterator[EmbedderClient]:
    """A pool, three pictures in its quarantine, and one more that only one worker has died of."""
    before = Quarantine(settings.quarantine_file, keep_s=3600)
    for digest in [*_HELD, *_HELD, "c1" * 32]:
        before.strike(digest, "sigsegv")
    process = subprocess.Popen(
        [sys.executable, "-m", "app.embedder.pool"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "STORAGE_DIR": str(settings.storage_dir)},
    )
    client = EmbedderClient(settings.embedder_address)
    try:
        wait_until_it_answers(client, process)
        yield client
    finally:
        process.terminate()
        assert process.wait(_STARTS_WITHIN_S) == 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def pool(settings: Settings) -> Iterator[EmbedderClient]:
    with running_pool(settings) as client:
        yield client


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory) -> Iterator[tuple[Settings, EmbedderClient]]:
    """For tests after which all three are still held."""
    settings = settings_in(tmp_path_factory.mktemp("unchanged"))
    with running_pool(settings) as client:
        yield settings, client


def wait_until_it_answers(client: EmbedderClient, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            client.status()
            return
        except EmbedderUnavailable:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)


def run(settings: Settings, *arguments: str) -> Result:
    return create_app(settings).test_cli_runner().invoke(args=["quarantine", *arguments])


def held(pool: EmbedderClient) -> list[str]:
    return sorted(picture.sha256 for picture in pool.quarantined())


def test_list_tells_of_what_the_worker_died_and_when_it_is_forgotten(
    unchanged: tuple[Settings, EmbedderClient],
) -> None:
    settings, _ = unchanged
    lines = run(settings, "list").output.splitlines()
    assert [line.split()[:3] for line in lines] == [[digest, "sigsegv", "until"] for digest in _HELD]
    assert all(line.endswith(" UTC") for line in lines)

    rows = json.loads(run(settings, "list", "--json").output)
    assert [(row["sha256"], row["cause"]) for row in rows] == [(digest, "sigsegv") for digest in _HELD]
    assert all(row["expires_at"].endswith("+00:00") for row in rows)


def test_one_picture_is_cleared_by_its_digest_or_by_as_much_of_it_as_is_its_own(
    settings: Settings, pool: EmbedderClient
) -> None:
    assert run(settings, "clear", _HELD[0]).output == "1 picture may be tried again.\n"
    assert held(pool) == _HELD[1:]
    assert run(settings, "clear", "B").output == "1 picture may be tried again.\n"
    assert held(pool) == [_HELD[1]]


def test_all_are_cleared_for_good(settings: Settings, pool: EmbedderClient) -> None:
    assert run(settings, "clear", "--all").output == "3 pictures may be tried again.\n"
    assert held(pool) == []
    assert run(settings, "list").output == "No picture is in quarantine.\n"
    assert json.loads(run(settings, "list", "--json").output) == []
    assert Quarantine(settings.quarantine_file, keep_s=3600).held() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "2 pictures have digests that begin with a"),
        (["d"], "No picture with a digest that begins with d"),
        (["c1"], "No picture with a digest that begins with c1"),
        (["d" * 64], "No picture with the digest"),
        (["d" * 65], "hexadecimal"),
        (["photo.jpg"], "hexadecimal"),
        ([], "--all"),
        (["a1", "--all"], "--all"),
    ],
)
def test_what_cannot_be_cleared_is_told_and_nothing_is(
    unchanged: tuple[Settings, EmbedderClient], arguments: list[str], said: str
) -> None:
    settings, pool = unchanged
    result = run(settings, "clear", *arguments)

    assert result.exit_code != 0
    assert said in result.output
    assert held(pool) == _HELD


@pytest.mark.parametrize("arguments", [["list"], ["clear", "--all"], ["clear", "a1"]])
def test_without_a_pool_it_says_so(settings: Settings, arguments: list[str]) -> None:
    result = run(settings, *arguments)

    assert result.exit_code == 1
    assert result.output.startswith("Error: The worker pool is not running.")
    assert len(result.output.splitlines()) == 1
