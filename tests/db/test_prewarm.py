"""What is read into the server's memory before the first search."""

import pytest

from app.db import prewarm as prewarming
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


def test_it_stops_when_told_to_and_when_its_time_is_over(database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(40, 32))
    assert prewarm(database, limit_s=60, go_on=lambda: False).left_out == 1
    assert prewarm(database, limit_s=-1).left_out == 1
