"""How entries look outside."""

import stat
from dataclasses import replace
from uuid import uuid4

import pytest

from app.face_cache.sealing import Sealing
from tests.face_cache.entries import entry


@pytest.fixture
def sealing(tmp_path) -> Sealing:
    return Sealing(tmp_path / "face-cache.key")


def test_what_is_sealed_is_read_under_its_name_only_and_unchanged(sealing):
    sealed = sealing.seal("a", b"a vector" * 10)
    assert b"vector" not in sealed
    assert sealing.open("a", sealed) == b"a vector" * 10
    assert sealing.open("b", sealed) is None
    for place in (0, 12, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert sealing.open("a", bytes(changed)) is None
    for length in (0, 3, 12, 20):
        assert sealing.open("a", sealed[:length]) is None
    assert sealing.seal("a", b"x") != sealing.seal("a", b"x")


def test_another_installation_reads_nothing_and_another_process_of_this_one_does(sealing, tmp_path):
    sealed = sealing.seal("a", b"faces")
    other = Sealing(tmp_path / "other.key")
    assert other.open("a", sealed) is None
    assert (other.name(entry()), other.id) != (sealing.name(entry()), sealing.id)
    again = Sealing(tmp_path / "face-cache.key")
    assert again.open("a", sealed) == b"faces"
    assert again.id == sealing.id
    assert stat.S_IMODE((tmp_path / "face-cache.key").stat().st_mode) == 0o600


def test_a_name_tells_nothing_and_each_entry_has_its_own(sealing):
    key = entry(7)
    domain = key.domain
    others = [
        replace(key, sha256=b"x" * 32),
        replace(key, effort="thorough"),
        *(
            replace(key, domain=replace(domain, **change))
            for change in ({"uid": uuid4()}, {"epoch": 1}, {"model": "m"}, {"contract": "c"})
        ),
    ]
    assert len({sealing.name(other) for other in [key, *others]}) == len(others) + 1
    assert sealing.name(key) == sealing.name(replace(key))
    assert key.sha256.hex()[:16] not in sealing.name(key)


@pytest.mark.parametrize("content", ["", "xyz", "ab" * 16])
def test_a_key_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "face-cache.key").write_text(content)
    with pytest.raises(ValueError, match=r".*"):
        Sealing(tmp_path / "face-cache.key")
