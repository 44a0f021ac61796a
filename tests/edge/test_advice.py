"""What an operator is told of settings that can be used, and should rather not be."""

from pathlib import Path

import pytest

from app.edge.advice import advice
from app.edge.config import EdgeConfig, parse_config


def settings(folder: Path, *, url: str = "https://faces.example.org", broker: str = 'host = "127.0.0.1"') -> EdgeConfig:
    return parse_config(
        f"""
        name = "front-desk"
        [server]
        url = "{url}"
        domain = "hotel"
        key_file = "api.key"
        [gallery]
        cache = "gallery.cache"
        contract = "made-up:16:0000000000000000"
        [broker]
        {broker}
        [[cameras]]
        name = "entrance"
        source_file = "entrance.source"
        locks = ["DC001"]
        """,
        folder,
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"url": "http://127.0.0.1:8000"}, []),
        ({"url": "http://[::1]:8000"}, []),
        ({"url": "http://localhost"}, []),
        ({"url": "http://faces.example.org"}, ["server.url"]),
        ({"url": "http://127.0.0.1.example.org"}, ["server.url"]),
        ({"broker": 'host = "broker.local"'}, ["broker.tls", "broker.username"]),
        ({"broker": 'host = "broker.local"\ntls = true\nusername = "edge"'}, []),
    ],
)
def test_what_lets_others_open_doors_is_named(tmp_path, changes, told):
    assert [sentence.partition(":")[0] for sentence in advice(settings(tmp_path, **changes))] == told


def test_a_secret_that_others_may_read_is_named(tmp_path):
    for name in ("api.key", "entrance.source"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    assert list(advice(settings(tmp_path))) == []
    (tmp_path / "entrance.source").chmod(0o640)
    assert [sentence.partition(":")[0] for sentence in advice(settings(tmp_path))] == [f"{tmp_path}/entrance.source"]
