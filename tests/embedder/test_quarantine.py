import json
import time

import pytest

from app.embedder.quarantine import STRIKES, Quarantine

A, B = "a" * 64, "b" * 64


@pytest.fixture
def file(tmp_path):
    return tmp_path / "quarantine.json"


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


def test_what_has_expired_is_taken_off_the_disk(file, monkeypatch):
    quarantine = Quarantine(file, keep_s=100)
    quarantine.strike(A, "sigsegv")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    quarantine.strike(B, "sigsegv")
    assert list(json.loads(file.read_text())) == [B]


def test_only_digests_are_kept(file, quarantine):
    quarantine.strike(A, "sigsegv", "dlib/all")
    (entry,) = json.loads(file.read_text()).values()
    assert entry.keys() == {"strikes", "cause", "expires_at"}
    assert entry["strikes"] == {"dlib/all": 1}


def test_whoever_survives_something_else_clears_nobody(quarantine):
    quarantine.strike(A, "sigsegv", "dlib/all")
    quarantine.survived(A, "dlib/none")
    assert quarantine.strikes(A) == 1
    quarantine.survived(A, "dlib/all")
    assert quarantine.strikes(A) == 0


def test_workers_that_died_of_different_things_count_together(quarantine):
    quarantine.strike(A, "sigsegv", "dlib/all")
    quarantine.strike(A, "sigsegv", "dlib/none")
    assert quarantine.holds(A)


def test_the_reason_may_come_later(file, quarantine):
    for _ in range(2):
        quarantine.strike(A, "unknown")
    quarantine.explain(A, "sigsegv")
    assert [picture.cause for picture in Quarantine(file, keep_s=3600).held()] == ["sigsegv"]
    quarantine.explain(B, "sigsegv")  # cleared meanwhile
    assert quarantine.strikes(B) == 0


def test_what_could_not_be_written_is_written_later(tmp_path, monkeypatch):
    quarantine = Quarantine(tmp_path / "gone" / "quarantine.json", keep_s=3600)
    quarantine.strike(A, "sigsegv")
    (tmp_path / "gone").mkdir()
    quarantine.save_again()  # too early
    assert not list((tmp_path / "gone").iterdir())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    quarantine.save_again()
    assert Quarantine(tmp_path / "gone" / "quarantine.json", keep_s=3600).strikes(A) == 1


def test_it_does_not_grow_without_end(file, monkeypatch):
    monkeypatch.setattr("app.embedder.quarantine._MAX_PICTURES", 10)
    quarantine = Quarantine(file, keep_s=3600)
    for number in range(25):
        quarantine.strike(f"{number:064x}", "sigsegv")
    assert len(json.loads(file.read_text())) == 10
    assert quarantine.strikes(f"{24:064x}") == 1
    assert quarantine.strikes(f"{0:064x}") == 0
