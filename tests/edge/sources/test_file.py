"""The cache file: whole or not at all, and never another's, another model's or too old."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from app.edge.errors import CacheUnusable
from app.edge.gallery import Gallery
from app.edge.sources.file import CacheFile
from tests.edge.making import CONTRACT, DIMENSION, delta, templates, vector

NOW = 1_800_000_000.0
MAX_AGE_S = 1000.0


def cache_file(
    folder: Path, *, source: str = "feed", contract: str = CONTRACT, dimension: int = DIMENSION
) -> CacheFile:
    return CacheFile(folder / "members", source=source, contract=contract, dimension=dimension, max_age_s=MAX_AGE_S)


def filled(count: int = 5) -> Gallery:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates(f"m{n}", n, 1 + n % 3, valid_until=NOW + n if n else None) for n in range(count)])
    return gallery


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    gallery = filled()
    gallery.apply(delta([templates("late", 77)], ["m1"]))  # rows that are nobody's any more
    cache_file(tmp_path).save(gallery.snapshot, "v7", NOW)
    loaded, right_at = cache_file(tmp_path).load(NOW + 1)
    assert (loaded.full, loaded.version, loaded.contract, right_at) == (True, "v7", CONTRACT, NOW)
    again = Gallery(CONTRACT, DIMENSION)
    again.apply(loaded)
    assert len(again.snapshot) == len(gallery.snapshot) == 5
    for key in ("m0", "m2", "m3", "m4", "late"):
        assert again.snapshot.member(key) == gallery.snapshot.member(key)
    for seed in (0, 2, 3, 4, 77, 1_000_002, 5):
        before, after = (one.snapshot.match(vector(seed), now=NOW) for one in (gallery, again))
        assert [match.member for match in before] == [match.member for match in after]
        np.testing.assert_allclose([m.similarity for m in before], [m.similarity for m in after], atol=1e-6)


def test_an_empty_gallery_is_kept_as_well(tmp_path: Path) -> None:
    cache_file(tmp_path).save(filled(0).snapshot, "v1", NOW)
    assert cache_file(tmp_path).load(NOW)[0].upserts == ()


def test_half_precision_is_kept_too(tmp_path: Path) -> None:
    gallery = Gallery(CONTRACT, DIMENSION, stored="float16")
    gallery.update([templates("a", 1)])
    cache_file(tmp_path).save(gallery.snapshot, "v1", NOW)
    (given,) = cache_file(tmp_path).load(NOW)[0].upserts
    np.testing.assert_allclose(given.embeddings, vector(1)[None], rtol=3e-3, atol=3e-3)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache_file(tmp_path).save(filled().snapshot, "v1", NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "members").stat().st_mode) == 0o600


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    cache_file(tmp_path).save(filled().snapshot, "v1", NOW)

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync" if failing == "fsync" else "app.edge.sources.file.encode", fail)
    with pytest.raises(OSError, match="No space"):
        cache_file(tmp_path).save(filled(2).snapshot, "v2", NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["members"]
    assert cache_file(tmp_path).load(NOW)[0].version == "v1"


def test_one_that_is_damaged_is_refused_wherever_it_is(tmp_path: Path) -> None:
    cache = cache_file(tmp_path)
    cache.save(filled().snapshot, "v1", NOW)
    whole = cache.path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        cache.path.write_bytes(damaged)
        with pytest.raises(CacheUnusable, match="damaged"):
            cache.load(NOW)
    for length in (0, 7, 100, len(whole) - 1):
        cache.path.write_bytes(whole[:length])
        with pytest.raises(CacheUnusable, match="damaged"):
            cache.load(NOW)


def test_one_of_another_source_or_model_is_refused(tmp_path: Path) -> None:
    cache_file(tmp_path).save(filled().snapshot, "v1", NOW)
    for other in (
        cache_file(tmp_path, source="another feed"),
        cache_file(tmp_path, contract="another:16:0"),
        cache_file(tmp_path, dimension=DIMENSION * 2),
    ):
        with pytest.raises(CacheUnusable, match="another"):
            other.load(NOW)


def test_one_that_is_too_old_or_from_the_future_is_refused(tmp_path: Path) -> None:
    cache = cache_file(tmp_path)
    cache.save(filled().snapshot, "v1", NOW)
    assert cache.load(NOW + MAX_AGE_S)[0].upserts
    assert cache.load(NOW - 3600)[0].upserts  # a machine without a battery, after the power was cut
    with pytest.raises(CacheUnusable, match="old"):
        cache.load(NOW + MAX_AGE_S + 1)
    with pytest.raises(CacheUnusable, match="future"):
        cache.load(NOW - 2 * 86_400)


def test_one_that_is_not_there_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CacheUnusable, match="no cache file"):
        cache_file(tmp_path).load(NOW)
    (tmp_path / "members").mkdir()
    with pytest.raises(CacheUnusable, match="cannot be read"):
        cache_file(tmp_path).load(NOW)


def test_a_file_that_others_may_have_written_says_nothing_of_who_opens_doors(tmp_path: Path) -> None:
    file = cache_file(tmp_path)
    file.save(filled().snapshot, "v1", NOW)
    file.load(NOW)
    for path, mode in ((file.path, 0o620), (file.path, 0o602), (tmp_path, 0o770), (tmp_path, 0o707)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        with pytest.raises(CacheUnusable, match="not used"):
            file.load(NOW)
        path.chmod(before)
    file.load(NOW)
    elsewhere = tmp_path / "elsewhere"
    file.path.rename(elsewhere)
    file.path.symlink_to(elsewhere)
    with pytest.raises(CacheUnusable):
        file.load(NOW)
    file.path.unlink()
    os.mkfifo(file.path)
    with pytest.raises(CacheUnusable, match="not used"):
        file.load(NOW)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_file(tmp_path).save(filled().snapshot, "v1", NOW)
    monkeypatch.setattr("app.edge.sources.file._MAX_BYTES", 100)
    with pytest.raises(CacheUnusable, match="bytes"):
        cache_file(tmp_path).load(NOW)


def test_a_file_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_file(tmp_path).save(filled().snapshot, "v1", NOW)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(CacheUnusable, match="not used"):
        cache_file(tmp_path).load(NOW)
