"""The way to the broker, and the doors at its end, with a real Mosquitto that is killed, frozen and started again."""

import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from app.edge.clock import VirtualClock
from app.edge.connecting import BrokerSettings
from app.edge.errors import BrokerError, ConfigError
from app.edge.messages import Message
from app.edge.mqtt import Broker
from app.edge.occupancy import OccupancyFeed
from app.edge.triggers import Triggers
from app.edge.zigbee import UNLOCK
from tests.edge.histories import START, FakeBroker, payload
from tests.edge.mosquitto import Mosquitto, Peer, needs_mosquitto

pytestmark = needs_mosquitto

OPEN = Message("zigbee2mqtt/DC006/set", UNLOCK, expires_s=5)
# Unlike a command, it is still there for a listener who comes later than the controller.
KEPT = Message("zigbee2mqtt/DC006/set", UNLOCK, retain=True, expires_s=600)


@pytest.fixture
def mosquitto(tmp_path):
    with Mosquitto(tmp_path) as running:
        yield running


def settings_for(mosquitto: Mosquitto, **changes) -> BrokerSettings:
    given = {"host": "127.0.0.1", "port": mosquitto.port, "client_id": "edge-1", "first_delay_s": 0.02}
    # However busy the machine is: a broker that hangs is one that a test has frozen.
    return BrokerSettings(**(given | {"longest_delay_s": 0.1, "answer_s": 10.0} | changes))


@contextmanager
def closing_broker(mosquitto: Mosquitto, **changes):
    broker = Broker(settings_for(mosquitto, **changes))
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def broker(mosquitto):
    with closing_broker(mosquitto) as broker:
        yield broker


def until(condition, timeout_s: float = 60.0) -> None:
    """A guard against waiting for ever, not a bound that is tested."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def flushed(broker: Broker, peer: Peer) -> list[str]:
    """The topics that the peer has heard, once all that was sent so far has come."""
    marker = f"marker/{len(peer.received)}".encode()
    assert broker.send(Message("marker", marker))
    peer.wait_for(lambda received: any(message.payload == marker for message in received))
    return [topic for topic in peer.topics() if topic != "marker"]


def test_a_command_arrives_once_not_retained_and_with_an_end(mosquitto, broker):
    broker.start()
    broker.wait_ready(20)
    with Peer(mosquitto.port, "#") as peer:
        assert broker.send(OPEN)
        assert flushed(broker, peer) == ["zigbee2mqtt/DC006/set"]
        [command] = [message for message in peer.received if message.topic != "marker"]
        assert (command.payload, command.qos, command.retain) == (UNLOCK, 1, False)
        assert 1 <= command.properties.MessageExpiryInterval <= 5
    with Peer(mosquitto.port, "#") as later:
        assert flushed(broker, later) == []


def test_a_command_for_a_broker_that_is_away_never_comes(mosquitto, broker):
    broker.start()
    broker.wait_ready(20)
    mosquitto.kill()
    until(lambda: not broker.connected)
    assert not broker.send(KEPT)
    mosquitto.start()
    broker.wait_ready(20)
    with Peer(mosquitto.port, "#") as peer:
        assert flushed(broker, peer) == []


def test_a_command_for_a_broker_that_hangs_never_comes(mosquitto):
    with closing_broker(mosquitto, answer_s=2.0) as broker, Peer(mosquitto.port, "#") as peer:
        broker.start()
        broker.wait_ready(20)
        mosquitto.freeze()
        assert not broker.send(OPEN)
        mosquitto.thaw()
        assert flushed(broker, peer) == []


def test_a_command_whose_time_ran_out_while_the_broker_was_asked_is_not_sent(mosquitto, monkeypatch):
    clock = VirtualClock(START)
    broker = Broker(settings_for(mosquitto), clock=clock)
    broker.start()
    try:
        broker.wait_ready(20)
        with Peer(mosquitto.port, "#") as peer:
            monkeypatch.setattr(broker, "_answers", lambda _client: clock.sleep(5.0) or True)
            assert not broker.send(OPEN)
            monkeypatch.undo()
            assert flushed(broker, peer) == []
    finally:
        broker.stop()


def test_a_command_that_was_under_way_when_the_broker_died_is_not_repeated(mosquitto, broker, monkeypatch):
    monkeypatch.setattr(broker, "_answers", lambda _client: True)  # it hangs right after its answer
    changes = []
    broker.on_change(changes.append)
    broker.start()
    broker.wait_ready(20)
    mosquitto.freeze()
    assert broker.send(KEPT)  # handed over, and nobody there to read it
    mosquitto.restart()
    monkeypatch.undo()
    until(lambda: changes == [True, False, True])
    broker.wait_ready(20)
    with Peer(mosquitto.port, "#") as peer:
        assert flushed(broker, peer) == []


def test_a_broker_that_does_not_acknowledge_in_time_is_left(mosquitto, broker, monkeypatch):
    monkeypatch.setattr(broker, "_answers", lambda _client: True)
    changes = []
    broker.on_change(changes.append)
    broker.start()
    broker.wait_ready(20)
    mosquitto.freeze()
    with capture_logs() as logs:
        assert broker.send(Message(OPEN.topic, UNLOCK, expires_s=1))
        until(lambda: changes == [True, False])
    assert any("does not acknowledge" in line["event"] for line in logs)
    mosquitto.thaw()
    broker.wait_ready(20)


def test_events_wait_for_the_broker_and_expired_ones_do_not_come(mosquitto, broker):
    broker.start()
    broker.wait_ready(20)
    mosquitto.freeze()
    broker.post(Message("facedex/1", b"under way when it died", retain=True))
    mosquitto.kill()
    until(lambda: not broker.connected)
    broker.post(Message("facedex/2", b"while it was away", retain=True, expires_s=600))
    broker.post(Message("facedex/3", b"expired", retain=True, expires_s=0))
    mosquitto.start()
    with Peer(mosquitto.port, "marker") as peer:
        broker.wait_ready(20)
        flushed(broker, peer)
    with Peer(mosquitto.port, "#") as later:
        assert sorted(flushed(broker, later)) == ["facedex/1", "facedex/2"]


def test_events_of_an_outage_come_in_their_order(mosquitto, tmp_path):
    with Peer(mosquitto.port, "facedex/#") as peer:
        broker = Broker(settings_for(mosquitto))
        for number in range(3):
            broker.post(Message("facedex/events", b"%d" % number, expires_s=600))
        broker.post(Message("facedex/events", b"expired", expires_s=0))
        broker.start()
        try:
            broker.wait_ready(20)
            broker.post(Message("facedex/events", b"3"))
            peer.wait_for(lambda received: any(message.payload == b"3" for message in received))
        finally:
            broker.stop()
        assert [message.payload for message in peer.received] == [b"0", b"1", b"2", b"3"]


def test_the_last_will_is_said_when_it_dies_and_when_it_stops(mosquitto):
    said = {
        "will": Message("facedex/edge-1", b"offline", retain=True),
        "birth": Message("facedex/edge-1", b"online", retain=True),
    }
    broker = Broker(settings_for(mosquitto), **said)
    with Peer(mosquitto.port, "facedex/#") as peer:

        def heard() -> list[bytes]:
            return [message.payload for message in peer.received]

        broker.start()
        peer.wait_for(lambda _: heard() == [b"online"])
        # Somebody takes the name over: the broker throws the first one out, as it does with who is silent.
        thief = Broker(settings_for(mosquitto))
        thief.start()
        peer.wait_for(lambda _: b"offline" in heard())
        thief.stop()
        peer.wait_for(lambda _: heard()[-1] == b"online")
        broker.stop()
        peer.wait_for(lambda _: heard()[-1] == b"offline")
    with Peer(mosquitto.port, "facedex/#") as later:
        later.wait_for(lambda received: [(one.payload, one.retain) for one in received] == [(b"offline", True)])


@pytest.fixture
def touched(mosquitto, broker):
    """Triggers at the end of a real connection; tells when a report was handled."""
    clock = VirtualClock(START)
    triggers = Triggers(clock, {"entrance": {"DC001", "DC006"}})
    OccupancyFeed(broker, triggers, now=clock.now)
    marks = threading.Semaphore(0)
    broker.subscribe("mark", lambda _: marks.release())
    broker.start()
    broker.wait_ready(20)

    def say(peer: Peer, lock: str, sent: bytes, retain: bool = False) -> frozenset[str]:
        peer.say(f"zigbee2mqtt/{lock}", sent, retain=retain)
        peer.say("mark", b"")
        assert marks.acquire(timeout=60)
        return triggers.capture("entrance").occupied_locks

    return triggers, say


def test_after_the_broker_was_away_nothing_is_occupied_until_it_is_reported(mosquitto, broker, touched):
    triggers, say = touched
    with Peer(mosquitto.port) as peer:
        assert say(peer, "DC001", payload(True, START)) == {"DC001"}
    held = triggers.capture("entrance")
    mosquitto.restart()
    until(lambda: not triggers.capture("entrance").occupied_locks)
    broker.wait_ready(20)
    assert held.occupied_locks == {"DC001"}
    with Peer(mosquitto.port) as peer:
        assert say(peer, "DC006", payload(True, START)) == {"DC006"}


def test_who_asks_is_asked_again_once_the_broker_has_answered(mosquitto, broker):
    broker.start()
    broker.wait_ready(20)
    with Peer(mosquitto.port, "zigbee2mqtt/+/set") as peer:
        assert not broker.send(OPEN, still=lambda: None)
        assert broker.send(OPEN, still=lambda: 3)
        peer.wait_for(lambda received: received)
        assert [one.properties.MessageExpiryInterval for one in peer.received] <= [3]


def test_nothing_is_sent_behind_messages_that_wait_for_their_acknowledgement(mosquitto, broker):
    broker.start()
    broker.wait_ready(20)
    broker._outbox._sent += [broker._outbox.make(Message("a", b""), posted=True) for _ in range(5)]
    assert not broker.send(OPEN)
    broker._outbox._sent.clear()
    assert broker.send(OPEN)


def test_what_the_broker_had_kept_is_no_touch(mosquitto, broker):
    with Peer(mosquitto.port) as peer:
        peer.say("zigbee2mqtt/DC001", payload(True, None), retain=True)
        triggers = Triggers(VirtualClock(START), {"entrance": {"DC001", "DC006"}})
        OccupancyFeed(broker, triggers)
        marks = threading.Event()
        broker.subscribe("mark", lambda _: marks.set())
        broker.start()
        broker.wait_ready(20)
        peer.say("mark", b"")
        assert marks.wait(60)
        assert triggers.capture("entrance").occupied_locks == frozenset()


@pytest.mark.parametrize(("stamp", "counts"), [(None, False), (START - 0.5, False), (START, True)])
def test_a_first_touch_after_a_connection_counts_only_if_it_was_made_since(stamp, counts):
    fake, clock = FakeBroker(), VirtualClock(START)
    triggers = Triggers(clock, {"entrance": {"DC001"}})
    OccupancyFeed(fake, triggers, now=clock.now)
    for _ in range(2):
        fake.report("DC001", payload(True, stamp))
        assert bool(triggers.capture("entrance").occupied_locks) == counts
        clock.sleep(1)
        fake.report("DC001", payload(False, None))
        fake.report("DC001", payload(True, None))  # from now on it is known when one begins
        assert triggers.capture("entrance").occupied_locks == {"DC001"}
        clock.sleep(1)
        fake.turn(False)
        fake.turn(True)
        stamp = None if stamp is None else stamp + 2


def test_touches_without_a_time_do_not_count_where_times_are_asked_for():
    fake = FakeBroker()
    triggers = Triggers(VirtualClock(START), {"entrance": {"DC001"}})
    OccupancyFeed(fake, triggers, stamped_only=True, now=lambda: START)
    for stamp, occupied in ((None, frozenset()), (START, frozenset())):
        fake.report("DC001", payload(True, stamp))
        assert triggers.capture("entrance").occupied_locks == occupied  # the second repeats the first
    fake.report("DC001", payload(False, None))
    for stamp, occupied in ((None, frozenset()), (START, frozenset())):
        fake.report("DC001", payload(True, stamp))
        assert triggers.capture("entrance").occupied_locks == occupied
    fake.report("DC001", payload(False, None))
    for stamp, occupied in ((START, {"DC001"}),):
        fake.report("DC001", payload(True, stamp))
        assert triggers.capture("entrance").occupied_locks == occupied
    fake.report("DC001", payload(False, None))
    assert triggers.capture("entrance").occupied_locks == frozenset()


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"x"',
        b"[" * 60_000,
        b'{"occupancy": "true"}',
        b'{"occupancy": 1}',
        b"1" * 70_000,
    ],
    ids=["empty", "no text", "null", "list", "string", "deep", "text for truth", "number for truth", "long"],
)
def test_hostile_payloads_are_ignored_with_a_line_in_the_log(mosquitto, touched, hostile):
    _, say = touched
    with Peer(mosquitto.port) as peer, capture_logs() as logs:
        assert say(peer, "DC001", hostile) == frozenset()
        assert [line["lock"] for line in logs if line["event"] == "malformed report ignored"] == ["DC001"]
        assert say(peer, "DC001", payload(True, START)) == {"DC001"}


def test_a_handler_that_fails_ends_nothing(mosquitto, broker):
    seen = []

    def handler(received) -> None:
        seen.append(received.payload)
        raise RuntimeError("broken")

    broker.subscribe("anything", handler)
    broker.start()
    broker.wait_ready(20)
    with Peer(mosquitto.port) as peer:
        peer.say("anything", b"1")
        peer.say("anything", b"2")
        until(lambda: seen == [b"1", b"2"])
    assert broker.connected


def test_credentials_are_used_and_never_told(tmp_path):
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("needs the program mosquitto_passwd, which is not installed")
    passwords = tmp_path / "passwords"
    passwords.write_text("edge:geheim-4711\n")
    subprocess.run([tool, "-U", passwords], check=True)
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        right = settings_for(mosquitto, username="edge", password="geheim-4711")
        wrong = settings_for(mosquitto, username="edge", password="geheim-0815")
        with capture_logs() as logs:
            for settings, works in ((right, True), (wrong, False)):
                broker = Broker(settings)
                broker.start()
                try:
                    if works:
                        broker.wait_ready(20)
                    else:
                        until(lambda: any("refuses" in line["event"] for line in logs))
                        with pytest.raises(BrokerError) as refused:
                            broker.wait_ready(0)
                        assert "geheim" not in str(refused.value)
                finally:
                    broker.stop()
        assert "geheim" not in repr(logs) + repr(right)


def test_a_broker_that_was_never_there_is_waited_for(tmp_path):
    mosquitto = Mosquitto(tmp_path)
    broker = Broker(settings_for(mosquitto))
    broker.start()
    try:
        with pytest.raises(BrokerError, match="cannot be reached"):
            broker.wait_ready(0.05)
        assert not broker.send(OPEN)
        with mosquitto:
            broker.wait_ready(20)
            assert broker.connected
            broker.stop()
    finally:
        broker.stop()


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_connection_is_encrypted_and_the_brokers_certificate_counts(tmp_path):
    own, other = certificate(tmp_path, "own"), certificate(tmp_path, "other")
    with Mosquitto(tmp_path, f"certfile {own[0]}", f"keyfile {own[1]}") as mosquitto:
        for trusted, works in ((own[0], True), (other[0], False)):
            broker = Broker(settings_for(mosquitto, host="localhost", tls=True, ca_file=trusted))
            with capture_logs() as logs:
                broker.start()
                try:
                    if works:
                        broker.wait_ready(20)
                        with pytest.raises(AssertionError):
                            broker.subscribe("too/late", print)
                    else:
                        until(lambda: any("cannot be reached" in line["event"] for line in logs))
                        assert not broker.connected
                finally:
                    broker.stop()


def test_certificates_that_cannot_be_used_are_named(tmp_path):
    for wrong in ({"ca_file": tmp_path / "none.pem"}, {"cert_file": tmp_path / "none.pem"}):
        with pytest.raises(ConfigError, match=r"none\.pem"):
            Broker(BrokerSettings("localhost", "edge-1", tls=True, **wrong))


def certificate(folder, name: str):
    """A certificate for this machine that nobody else vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


GARBAGE = {
    "short": b"\x30\x01\x00",
    "properties": b"\x30\x07\x00\x01a\x05\xff\xff\xff",
    "unknown command": b"\xf0\x00",
    "short acknowledgement": b"\x40\x00",
    "level of service": b"\x36\x07\x00\x01a\x00\x01\x00x",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_broker_that_sends_garbage_is_left_and_tried_again(garbage):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        broker = Broker(BrokerSettings("127.0.0.1", "edge-1", port=server.getsockname()[1], first_delay_s=0.02))
        broker.start()
        try:
            first, _ = server.accept()
            with first:
                first.recv(1_000)
                first.sendall(b"\x20\x03\x00\x00\x00")  # welcome
                until(lambda: broker.connected)
                first.sendall(garbage)
                server.accept()[0].close()
        finally:
            broker.stop()
