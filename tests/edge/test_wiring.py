"""The parts as the settings put them together, with the default model; no server is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from app.edge.cameras.frame import Frame
from app.edge.clock import SystemClock, VirtualClock
from app.edge.config import EdgeConfig, parse_config
from app.edge.errors import ConfigError, RecognizeError, RecognizeUnavailable
from app.edge.gallery import Gallery
from app.edge.members import Member, MemberTemplates
from app.edge.recognition import SwitchingRecognizer
from app.edge.running import Edge
from app.edge.secrets import KEY_VARIABLE, read_secrets
from app.edge.sources.dynamodb import DynamoSource
from app.edge.sources.feed import FeedSource
from app.edge.timekeeping import TimeOfDay
from app.edge.triggers import Triggers
from app.edge.wiring import make_broker, make_gallery, make_recognition, make_source, make_sync
from app.vision.engine import load_engine
from app.vision.packs import PackStore, contract_dimension
from tests import pictures
from tests.edge.mosquitto import Mosquitto, Peer, needs_mosquitto
from tests.service.running import eventually, free_port

GUEST, OTHER = "Ariel_Sharon", "Colin_Powell"


def settings(
    folder: Path, models: Path | None, *, more: str = "", broker: int = 1, answer_s: float = 10.0, **gallery: str
) -> EdgeConfig:
    """Of a controller whose server is not there."""
    recognition = "" if models is None else f'[recognition]\nmode = "auto"\nmodels_dir = "{models}"\n'
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in gallery.items())
    return parse_config(
        f"""
        name = "front-desk"
        [server]
        url = "http://127.0.0.1:{free_port()}"
        domain = "hotel"
        attempts = 1
        open_after = 1
        [gallery]
        cache = "gallery.cache"
        {lines}
        {recognition}
        [broker]
        host = "127.0.0.1"
        port = {broker}
        answer_s = {answer_s}
        [health]
        port = 0
        interval_s = 0.2
        {more}
        [[cameras]]
        name = "entrance"
        source = "folder:frames"
        locks = ["DC001"]
        """,
        folder,
    )


def secrets(config: EdgeConfig):
    return read_secrets(config, {KEY_VARIABLE: "key"})


@pytest.fixture(scope="module")
def contract(models) -> str:
    return PackStore(models).get("dlib").manifest.contract.id


@pytest.fixture(scope="module")
def guests(models) -> list[MemberTemplates]:
    """Two guests with three templates each, of whom one may open a door."""
    photos, engine = pictures.lfw10(), load_engine(PackStore(models).get("dlib"))

    def template(photo: Path) -> np.ndarray:
        return engine.analyze(photo.read_bytes(), max_pixels=pictures.MAX_PIXELS, embed="largest").faces[0].embedding

    return [
        MemberTemplates(
            Member(f"R{number}-1", name, locks=locks), np.stack([template(each) for each in photos[name][:3]])
        )
        for number, (name, locks) in enumerate([(GUEST, frozenset({"DC001"})), (OTHER, frozenset())])
    ]


def test_the_gallery_is_of_the_packs_model(tmp_path, models, contract):
    assert make_gallery(settings(tmp_path, models)).contract == contract
    assert make_gallery(settings(tmp_path, None, contract="made-up:16:0000000000000000")).dimension == 16


def test_another_model_than_the_packs_is_an_error_of_the_settings(tmp_path, models):
    with pytest.raises(ConfigError, match=r"gallery\.contract"):
        make_gallery(settings(tmp_path, models, contract="made-up:16:0000000000000000"))


def test_a_pack_that_is_not_there_is_an_error_of_the_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"recognition\.pack"):
        make_gallery(settings(tmp_path, tmp_path / "nowhere"))


def test_how_long_the_broker_may_take_to_answer_is_set(tmp_path):
    config = settings(tmp_path, None, contract="made-up:16:0000000000000000")
    assert make_broker(config, secrets(config), "facedex/edge/status")._settings.answer_s == 10.0
    for wrong in (0.0, 31.0):
        with pytest.raises(ConfigError, match="answer_s"):
            settings(tmp_path, None, answer_s=wrong, contract="made-up:16:0000000000000000")


def test_members_come_from_the_feed_or_from_dynamodb(tmp_path):
    feed = settings(tmp_path, None, contract="made-up:16:0000000000000000")
    source = make_source(feed, secrets(feed), make_gallery(feed), SystemClock())
    assert isinstance(source, FeedSource)
    tables = '[gallery.dynamodb]\nregion = "eu-central-1"\n[gallery.dynamodb.reservations]\npartitions = ["in"]'
    config = settings(tmp_path, None, more=tables, source="dynamodb", contract="made-up:16:0000000000000000")
    source = make_source(config, secrets(config), make_gallery(config), SystemClock())
    assert isinstance(source, DynamoSource)
    assert source.settings.region == "eu-central-1"
    assert source.settings.reservations.partitions == ("in",)
    assert source.settings.members.table == "members"


def frame(photo: bytes) -> Frame:
    context = Triggers(VirtualClock(100.0), {"entrance": ["DC001"]}).capture("entrance")
    return Frame("entrance", photo, 100.0, context)


def test_while_the_server_is_away_faces_are_recognised_by_the_pack_and_the_gallery(tmp_path, models, contract, guests):
    config = settings(tmp_path, models)
    gallery = make_gallery(config)
    gallery.update(guests)
    recognition = make_recognition(config, secrets(config), lambda: gallery.snapshot, SystemClock())
    assert isinstance(recognition.recognizer, SwitchingRecognizer)
    photos = pictures.lfw10()
    try:
        found = recognition.recognizer.recognize(frame(photos[GUEST][7].read_bytes()))
        assert [match.member.name for match in found.matches] == [GUEST]
        assert found.by == recognition.by == "local"
        assert {"decode", "detect", "embed", "match"} <= found.seconds.keys()
        stranger = recognition.recognizer.recognize(frame(photos["Tony_Blair"][7].read_bytes()))
        assert (stranger.matches, dict(stranger.nobody)) == ((), {"unknown": 1})
        gallery.update(guests[1:])
        assert not recognition.recognizer.recognize(frame(photos[GUEST][7].read_bytes())).matches
        for broken in (b"", b"no picture", photos[GUEST][7].read_bytes()[:500]):
            with pytest.raises(RecognizeError, match="cannot be used"):
                recognition.recognizer.recognize(frame(broken))
    finally:
        recognition.recognizer.close()


def test_without_a_pack_of_its_own_nothing_is_recognised_while_the_server_is_away(tmp_path):
    config = settings(tmp_path, None, contract="made-up:16:0000000000000000")
    gallery = make_gallery(config)
    recognition = make_recognition(config, secrets(config), lambda: gallery.snapshot, SystemClock())
    with pytest.raises(RecognizeUnavailable):
        recognition.recognizer.recognize(frame(b"x"))
    assert recognition.circuit.state == "open"
    recognition.recognizer.close()


def touched_locks(edge: Edge, clock: SystemClock) -> frozenset[str]:
    return edge.controller.capture("entrance", clock.now()).occupied_locks


def detections(messages) -> list[dict]:
    return [json.loads(message.payload) for message in messages if message.topic.endswith("/member_detected")]


@needs_mosquitto
def test_a_controller_that_starts_without_the_server_opens_doors_from_its_file_where_the_time_is_known(
    tmp_path, models, contract, guests, monkeypatch
):
    vouched = []
    monkeypatch.setattr("app.edge.running._TIME_KNOWN_WITHIN_S", 0.0)
    (tmp_path / "frames").mkdir()
    before = Gallery(contract, contract_dimension(contract))
    before.update(guests)
    with (
        Mosquitto(tmp_path) as broker,
        Peer(broker.port, "zigbee2mqtt/+/set", "facedex/edge/#") as peer,
        capture_logs() as said,
    ):
        config = settings(tmp_path, models, broker=broker.port)
        clock = SystemClock()
        sync = make_sync(config, before, make_source(config, secrets(config), before, clock), clock)
        sync._cache.save(before.snapshot, "7", clock.now())
        time_of_day = TimeOfDay(clock, synchronised=lambda: bool(vouched), battery=lambda _: False)
        edge = Edge(config, secrets(config), time_of_day=time_of_day)
        edge.start()
        try:
            eventually(lambda: edge.report().broker_connected and len(edge.gallery.snapshot) == 2)
            photo = pictures.lfw10()[GUEST][7]
            for number, opens in enumerate((False, True)):
                for occupied, touched in ((b"false", frozenset()), (b"true", {"DC001"})):
                    peer.say("zigbee2mqtt/DC001", b'{"occupancy": %s}' % occupied)
                    eventually(lambda touched=touched: touched_locks(edge, clock) == touched)
                (tmp_path / "frames/x.part").write_bytes(photo.read_bytes())
                (tmp_path / "frames/x.part").rename(tmp_path / f"frames/{number}.jpg")
                peer.wait_for(lambda messages, number=number: len(detections(messages)) > number)
                told = detections(peer.received)[number]
                assert told["unlockedLocks"] == (["DC001"] if opens else [])
                state = "The time of day is known" if opens else "Nobody has said what time it is: no door opens"
                eventually(lambda state=state: any(line["event"].startswith(state) for line in said))
                if not opens:
                    assert told["refusedLocks"] == [{"lock": "DC001", "reason": "time_not_known"}]
                    assert edge.report().status(clock.now()) == "failing"
                vouched.append("NTP")
            assert "zigbee2mqtt/DC001/set" in [message.topic for message in peer.received]
            peer.wait_for(lambda messages: any(b'"by": "local"' in message.payload for message in messages))
            report = edge.report()
            assert report.status(clock.now()) == "degraded"
            assert report.gallery.error is not None
            edge.sync._max_age_s = -1.0  # as if it had been away for too long
            assert len(edge._recognition.recognizer._local._snapshot()) == 0
            assert "too old" in (edge.report().gallery.error or "")
        finally:
            edge.stop()
        peer.wait_for(lambda messages: messages[-1].payload == b'{"status": "offline"}')
