"""What came of a scenario, and whether that is what was expected."""

from dataclasses import dataclass

from app.edge.simulator.scenario import Expected, clock_of


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the timeline; `time` in seconds from the scenario's midnight."""

    time: float
    text: str

    def __str__(self) -> str:
        return f"{clock_of(self.time)}  {self.text}"


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario.

    Attributes:
        timeline: in the order in which it happened.
        unlocked: `00:01:19 DC006`, each command that reached the broker.
        refused: `00:01:19 DC001 lock_not_occupied`, or without a lock.
        events: the `member_detected` that were published.
        strange: what reached the broker that a controller never says.
    """

    expected: Expected
    timeline: tuple[Entry, ...]
    unlocked: tuple[str, ...]
    refused: tuple[str, ...]
    events: tuple[dict[str, object], ...]
    strange: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Where it is not what the scenario expects; empty where all is well."""
        faults = [f"this is no UNLOCK that expires and is not retained: {strange}" for strange in self.strange]
        if self.unlocked != self.expected.unlocked:
            wanted, was = (", ".join(locks) or "nothing" for locks in (self.expected.unlocked, self.unlocked))
            faults.append(f"unlocked: expected {wanted}; it was {was}")
        faults += [f"not refused: {refusal}" for refusal in self.expected.refused if refusal not in self.refused]
        return tuple(faults)
