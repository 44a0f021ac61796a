import sqlite3
import time
from contextlib import closing

import pytest

from app.embedder.quarantine import STRIKES, Quarantine

A, B = "a" * 64, "b" * 64


@pytest.fixture
def file(tmp_path):
    return tmp_path / "quarantine.sqlite"


@pytest.fixture
def quarantine(file):
    return Quarantine(file, keep_s=3600)


def held(quarantine):
    return [picture.sha256 for picture in quarantine.held()]


def test_a_picture_is_held_after_its_second_worker(quarantine):
    assert STRIKES == 2
    quarantine.strike(A, "sigsegv")
    assert (quarantine.strikes(A), quarantine.holds(A)) == (1, False)
    quarantine.strike(A, "memory")
    assert (quarantine.strikes(A), quarantine.holds(A)) == (2, True)
    assert not quarantine.holds(B)
    (picture,) = quarantine.held()
    assert (picture.sha256, picture.cause) == (A, "memory")
    assert time.time() + 3500 < picture.expires_at < time.time() + 3700


def test_it_survives_a_restart_first_strikes_too(file, quarantine):
    for _ in range(2):
        quarantine.strike(A, "sigsegv")
    quarantine.strike(B, "hang")
    again = Quarantine(file, keep_s=3600)
    assert held(again) == [A]
    assert again.held() == quarantine.held()
    again.strike(B, "hang")
    assert held(again) == [A, B]


def test_what_is_cleared_is_forgotten_on_disk_too(file, quarantine):
    for digest in (A, A, B, B, "c" * 64):
        quarantine.strike(digest, "sigsegv")
    assert quarantine.clear(A) == 1
    assert quarantine.clear(A) == 0
    assert held(Quarantine(file, keep_s=3600)) == [B]
    assert quarantine.clear("c" * 64) == 0  # not held, and yet forgotten
    assert quarantine.strikes("c" * 64) == 0
    assert quarantine.clear() == 1
    assert (held(quarantine), held(Quarantine(file, keep_s=3600))) == ([], [])


def test_a_picture_is_let_through_after_its_time(file, monkeypatch):
    quarantine = Quarantine(file, keep_s=100)
    for _ in range(2):
        quarantine.strike(A, "sigsegv")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 99)
    assert held(quarantine) == [A]
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert not quarantine.holds(A)
    assert quarantine.held() == []
    assert Quarantine(file, keep_s=100).held() == []
    quarantine.strike(A, "sigsegv")  # it begins anew
    assert quarantine.strikes(A) == 1


def test_what_has_expired_is_taken_off_the_disk_at_the_start(file, monkeypatch):
    quarantine = Quarantine(file, keep_s=100)
    quarantine.strike(A, "sigsegv")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    Quarantine(file, keep_s=100)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM strikes").fetchone() == (0,)


def test_only_digests_are_kept(file, quarantine):
    quarantine.strike(A, "sigsegv")
    with closing(sqlite3.connect(file)) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(strikes)")]
    assert columns == ["sha256", "strikes", "cause", "expires_at"]
