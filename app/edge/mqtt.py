"""The way to the MQTT broker: kept up for as long as the controller runs, and nothing late gets through it.

paho-mqtt keeps what it could not send, and sends it once it is connected again, minutes later, with the whole of its expiry. An
UNLOCK must never be that late. So each connection is a client of its own, which takes what it did not send with it; and where a
message that expires is not acknowledged in time, the connection is cut without delivering what still lies in its buffers.
"""

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import structlog
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from app.edge.clock import Clock, SystemClock
from app.edge.connecting import BrokerSettings, lose_at_close, prepare, tls_context, what_failed
from app.edge.errors import BrokerError
from app.edge.messages import Message, Still
from app.edge.outbox import Outbox

log = structlog.stdlib.get_logger("facedex.edge.mqtt")

# How often a connection is looked after.
_TICK_S: Final = 0.1
_CONNECT_TIMEOUT_S: Final = 5.0
_GOODBYE_S: Final = 1.0
# Whoever has answered has acknowledged what came before; paho queues from the twentieth on.
_BEHIND_MAX: Final = 4
_NO_TOPIC: Final = "facedex/edge/nothing"
# "Nobody has subscribed": no error to MQTT, but whoever should hear is not there.
_NOBODY_LISTENS: Final = 0x10


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came; `retained` if the broker had kept it from before the subscription."""

    topic: str
    payload: bytes
    retained: bool


Handler = Callable[[Received], None]


class Broker:
    """A connection that is made anew whenever it breaks; a `Publisher`.

    What others say while there is no connection is missed, on purpose: it would come late. `on_change` tells of it.

    Args:
        will: what the broker says for this controller when it is gone; said by `stop` too.
        birth: what is said whenever it is there again.

    Raises:
        ConfigError: a file of certificates cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        will: Message | None = None,
        birth: Message | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._will = will
        self._birth = birth
        self._clock = clock or SystemClock()
        self._tls = tls_context(settings)
        self._handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._guard = threading.Lock()  # of the two below; never held while somebody else's code runs
        self._client: paho.Client | None = None
        self._outbox = Outbox(self._clock)
        self._answered = threading.Condition()
        self._answers_to: set[int] = set()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Have messages of that very topic handled, in the connection's thread; before `start`. None that was retained."""
        assert self._thread is None, "subscriptions are made before the start"
        self._handlers[topic] = handler

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Tell of every connection that stands (before its first message) or was lost; before `start`."""
        self._listeners.append(listener)

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._client is not None

    def wait_ready(self, timeout_s: float) -> None:
        """Until there is a connection and it has its subscriptions.

        Raises:
            BrokerError: it takes longer.
        """
        if not self._ready.wait(timeout_s):
            raise BrokerError(f"The MQTT broker {self._settings.host}:{self._settings.port} cannot be reached.")

    def start(self) -> None:
        """Connect, and stay so; does not wait for it."""
        self._thread = threading.Thread(target=self._run, name="edge-mqtt", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye and close the connection. What waits is dropped."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def send(self, message: Message, *, still: Still | None = None) -> bool:
        """Now or never: whether it was handed to a broker that answers right now; not to be called by a handler.

        A broker that hangs would take it, and pass it on whenever it goes on. So it is asked for something else first. And
        it is not handed over while others wait for their acknowledgement: beyond some, paho would queue it.

        Args:
            still: as `Publisher.send`.
        """
        with self._guard:
            client, outgoing = self._client, self._outbox.make(message, posted=False)
        if client is None:
            return False
        if not self._answers(client):
            log.warning("broker does not answer, nothing sent", topic=message.topic)
            return False
        with self._guard:
            behind = self._outbox.unacknowledged()
        if behind > _BEHIND_MAX:
            log.warning(
                "broker is behind with its acknowledgements, nothing sent", topic=message.topic, messages=behind
            )
            return False
        if still is not None:
            if (expires_s := still()) is None:
                return False
            outgoing = self._outbox.make(replace(message, expires_s=expires_s), posted=False)
        with self._guard:
            return self._client is client and self._outbox.send(client, outgoing)

    def post(self, message: Message) -> None:
        """As soon as can be: what has not got through waits for the next connection, until it expires."""
        with self._guard:
            outgoing = self._outbox.make(message, posted=True)
            if self._client is None or not self._outbox.send(self._client, outgoing):
                self._outbox.wait(outgoing)

    def _answers(self, client: paho.Client) -> bool:
        """Whether the broker answers at once. There is no such subscription: its end changes nothing, and needs no right."""
        _, mid = client.unsubscribe(_NO_TOPIC)
        with self._answered:
            if mid is None or not self._answered.wait_for(lambda: mid in self._answers_to, self._settings.answer_s):
                return False
            self._answers_to.discard(mid)
            return True

    def _run(self) -> None:
        delay_s = self._settings.first_delay_s
        while not self._stopping.is_set():
            try:
                if self._connection():
                    delay_s = self._settings.first_delay_s
            except Exception:
                log.exception("connection to the broker failed")  # whatever it was, the doors need the next one
            self._stopping.wait(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads attempts, keeps no secret
            delay_s = min(delay_s * 2, self._settings.longest_delay_s)

    def _connection(self) -> bool:
        """One connection, from its beginning to its end; whether it ever stood."""
        down, stood = threading.Event(), threading.Event()
        with self._answered:
            self._answers_to.clear()  # numbers begin anew
        client = self._new_client(down, stood)
        try:
            client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, clean_start=True)
        except (OSError, ValueError) as error:
            log.warning(
                "broker cannot be reached", host=self._settings.host, port=self._settings.port, error=what_failed(error)
            )
            return False
        client.loop_start()
        try:
            while not self._stopping.is_set() and not down.wait(_TICK_S):
                with self._guard:
                    overdue = self._outbox.is_overdue()
                if overdue:
                    log.warning("broker does not acknowledge in time, connection cut")
                    break
            if self._stopping.is_set() and stood.is_set():
                self._say_goodbye(client)
        finally:
            self._lose(client, stood.is_set())
        return stood.is_set()

    def _new_client(self, down: threading.Event, stood: threading.Event) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)

        def on_connect(_client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
            if code.is_failure:
                log.error("broker refuses this controller", reason=str(code))
                down.set()
                return
            stood.set()
            self._stand(client)

        def on_subscribe(_client: Any, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Any) -> None:
            refused = [str(code) for code in codes if code.is_failure]
            if refused:
                log.error("broker refuses subscriptions", reasons=refused)
            self._ready.set()

        def on_publish(_client: Any, _data: Any, _mid: int, code: ReasonCode, _properties: Any) -> None:
            if code.is_failure:
                log.error("broker refuses a message", reason=str(code))
            elif code.value == _NOBODY_LISTENS:
                log.debug("nobody listens to a message")

        def on_unsubscribe(_client: Any, _data: Any, mid: int, _codes: Any, _properties: Any) -> None:
            with self._answered:
                self._answers_to.add(mid)
                self._answered.notify_all()

        client.on_connect = on_connect
        client.on_unsubscribe = on_unsubscribe
        client.on_subscribe = on_subscribe
        client.on_publish = on_publish
        client.on_disconnect = lambda *_: down.set()
        client.on_message = lambda _client, _data, message: self._handle(message)
        client.on_socket_open = lambda _client, _data, opened: prepare(opened)
        return client

    def _stand(self, client: paho.Client) -> None:
        """A connection stands. It is told of before its first message can come."""
        self._tell(True)
        # What the broker has kept is from before, and nobody knows from when.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        if self._handlers:
            client.subscribe([(topic, options) for topic in self._handlers])
        with self._guard:
            self._client = client
            if self._birth is not None:
                self._outbox.send(client, self._outbox.make(self._birth, posted=False))
            self._outbox.send_waiting(client)
        if not self._handlers:
            self._ready.set()
        log.info("broker connected", host=self._settings.host, port=self._settings.port)

    def _lose(self, client: paho.Client, stood: bool) -> None:
        """A connection is over: whatever it has not sent yet is dropped, also by the kernel."""
        with self._guard:
            self._client = None
            self._ready.clear()
        if (opened := client.socket()) is not None:
            with contextlib.suppress(OSError, ValueError):
                # Past TLS: only the file descriptor is to be shut, so that the client's thread ends.
                socket.socket.shutdown(cast(socket.socket, opened), socket.SHUT_RDWR)
        with contextlib.suppress(AttributeError):  # paho's own race: its thread has just ended by itself
            client.loop_stop()
        with self._guard:
            self._client = None
            self._outbox.lose()
        if stood:
            log.warning("broker lost" if not self._stopping.is_set() else "broker left")
            self._tell(False)

    def _say_goodbye(self, client: paho.Client) -> None:
        """The will is said by ourselves: the broker does not, for who leaves in order."""
        info = None
        if self._will is not None:
            with self._guard:
                goodbye = self._outbox.make(self._will, posted=False)
                info = goodbye.info if self._outbox.send(client, goodbye) else None
        with contextlib.suppress(RuntimeError, ValueError):
            if info is not None:
                info.wait_for_publish(_GOODBYE_S)
        if (opened := client.socket()) is not None:
            lose_at_close(opened, lose=False)
        client.disconnect()

    def _handle(self, message: paho.MQTTMessage) -> None:
        """One message; whatever it does to its handler, the connection goes on."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("message with a topic that is no text ignored")
            return
        handler = self._handlers.get(topic)
        if handler is None:
            return
        try:
            handler(Received(topic, bytes(message.payload), message.retain))
        except Exception:
            log.exception("a message could not be handled", topic=topic)

    def _tell(self, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(connected)
            except Exception:
                log.exception("a listener to the connection failed")
