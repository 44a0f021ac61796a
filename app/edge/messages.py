"""What is sent to the broker, and who takes it there: what the act needs to know of MQTT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message.

    Attributes:
        expires_s: so many seconds after it was handed over nobody gets it any more; None is never. At least 1.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expires_s: int | None = None


Still = Callable[[], int | None]


class Publisher(Protocol):
    """The way to the broker."""

    def send(self, message: Message, *, still: Still | None = None) -> bool:
        """Now or never: whether it was handed to a broker that answers. Never again, nor by a later connection.

        Args:
            still: asked as the very last thing before it is handed over, however long that took: `expires_s` by now, or None
                where it is not to be sent any more.
        """
        ...

    def post(self, message: Message) -> None:
        """As soon as can be: what has not got through waits for the next connection, until it expires."""
        ...
