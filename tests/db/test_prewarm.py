"""What is read into the server's memory before the first search."""

import pytest
from sqlalchemy import text

from app.db import prewarm as prewarming
from app.db.partitions import partition_name
from app.db.prewarm import prewarm
from app.db.session import Database
from tests.db_server import Maker, random_units


def test_galleries_with_templates_are_read_and_empty_ones_are_not_counted(
    database: Database, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gallery("empty", random_units(0, 32))
    make_gallery("few", random_units(40, 32))
    make_gallery("many", random_units(1_500, 32), bulk=True)
    asked: list[str] = []
    usual = prewarming._cold_share

    def cold_share(connection, table, dimension, probe):
        asked.append(table)
        return usual(connection, table, dimension, probe)

    monkeypatch.setattr(prewarming, "_cold_share", cold_share)
    warmed = prewarm(database, limit_s=60)
    assert (warmed.galleries, warmed.left_out) == (2, 0)
    assert warmed.size_bytes > 0
    # What was just loaded is in memory: two searches show it.
    assert max(map(asked.count, set(asked))) <= 3


def test_what_does_not_fit_into_the_buffers_is_left(
    database: Database, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gallery("people", random_units(40, 32))
    monkeypatch.setattr(prewarming, "_SHARE_OF_BUFFERS", 0.0)
    warmed = prewarm(database, limit_s=60)
    assert (warmed.galleries, warmed.size_bytes, warmed.left_out) == (0, 0, 1)


def test_of_a_gallery_that_does_not_fit_the_indexes_are_read_where_they_do(
    database: Database, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = make_gallery("coded", random_units(1_500, 256), bulk=True)
    scanned = make_gallery("scanned", random_units(6_000, 64), bulk=True)  # of the same size, and without codes
    asked: list[prewarming._Asked] = []
    with database.transaction() as session:
        sizes = {}
        for gallery in (coded, scanned):
            table = partition_name(gallery.domain_id)
            sizes[table] = session.execute(
                text(f"SELECT pg_relation_size('{table}'), pg_indexes_size(CAST('{table}' AS regclass))")
            ).one()
        buffers = session.scalar(text("SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers'"))
    usual = prewarming._by_asking

    def by_asking(connection, gallery, **more):
        asked.append(gallery)
        usual(connection, gallery, **more)

    monkeypatch.setattr(prewarming, "_by_asking", by_asking)
    _, indexes_bytes = sizes[partition_name(coded.domain_id)]
    assert sum(sizes[partition_name(scanned.domain_id)]) > indexes_bytes + 1
    monkeypatch.setattr(prewarming, "_SHARE_OF_BUFFERS", (indexes_bytes + 1) / buffers)
    warmed = prewarm(database, limit_s=60)
    assert (warmed.galleries, warmed.size_bytes, warmed.left_out) == (1, indexes_bytes, 1)
    assert [(gallery.domain_id, gallery.whole) for gallery in asked] == [(coded.domain_id, False)]
    monkeypatch.setattr(prewarming, "_SHARE_OF_BUFFERS", 1.0)
    assert prewarm(database, limit_s=60).galleries == 2
    assert all(gallery.whole for gallery in asked[1:])


def test_it_stops_when_told_to_and_when_its_time_is_over(database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(40, 32))
    assert prewarm(database, limit_s=60, go_on=lambda: False).left_out == 1
    assert prewarm(database, limit_s=-1).left_out == 1
