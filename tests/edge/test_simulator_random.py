"""Random scenarios through the whole controller, against a few lines that say what may open."""

import random

import pytest

from app.edge.simulator.scenario import (
    ComesBack,
    FrameTaken,
    GoesAway,
    Joins,
    Leaves,
    MemberThere,
    Motion,
    Reboot,
    Release,
    Scenario,
    Touch,
    clock_of,
)
from app.edge.simulator.world import play

CAMERAS = {"entrance": ("DC001", "DC002", "DC006"), "garage": ("DC006", "DC007")}
LOCKS = ("DC001", "DC002", "DC006", "DC007")
PEOPLE = ("alice", "bob", "stranger")
HOLD_S = 10.0
STEP_S = 0.7  # no sum of it is just HOLD_S


def steps(chance: random.Random, count: int) -> list:
    made, time = [], 60.0
    for _ in range(count):
        time = round(time + STEP_S * chance.choice([1, 1, 1, 2, 5, 20]), 3)
        lock, camera, person = chance.choice(LOCKS), chance.choice(list(CAMERAS)), chance.choice(PEOPLE)
        locks = tuple(chance.sample(LOCKS, chance.randint(0, 4)))
        frame = FrameTaken(
            time=time, frame=camera, faces=tuple(chance.sample(PEOPLE, 2)), seconds=chance.choice([0.1, 1.1, 4.3, 12.1])
        )
        kinds = [
            (8, Touch(time=time, touch=lock, lost=chance.random() < 0.1)),
            (4, Release(time=time, release=lock, lost=chance.random() < 0.1)),
            (2, Motion(time=time, motion=camera)),
            (12, frame),
            (1, chance.choice([GoesAway(time=time, away="broker"), ComesBack(time=time, back="broker")])),
            (1, chance.choice([GoesAway(time=time, away="server"), ComesBack(time=time, back="server")])),
            (1, Reboot(time=time, reboot=True)),
            (1, chance.choice([Joins(time=time, joins=person, locks=locks), Leaves(time=time, leaves=person)])),
        ]
        made.append(chance.choices([step for _, step in kinds], [weight for weight, _ in kinds])[0])
    return made


def occupied_at(history: list, time: float, camera: str) -> set[str]:
    """What is touched at a camera, by the steps up to then."""
    since: dict[str, float] = {}
    connected = True
    for step in history:
        if step.time > time:
            break
        if isinstance(step, Touch) and connected and not step.lost:
            since.setdefault(step.touch, step.time)  # a repetition begins nothing
        elif isinstance(step, Release) and connected and not step.lost:
            since.pop(step.release, None)
        elif isinstance(step, Reboot):
            since.clear()
        elif "broker" in (getattr(step, "away", ""), getattr(step, "back", "")):
            since.clear()
            connected = isinstance(step, ComesBack)
    return {lock for lock in CAMERAS[camera] if time - since.get(lock, -HOLD_S) < HOLD_S}


def may_open(history: list, time: float, person: str) -> set[str]:
    """What somebody may open at that time."""
    locks = {"alice": {"DC001", "DC006"}, "bob": {"DC007"}}
    for step in history:
        if step.time <= time and isinstance(step, Joins):
            locks[step.joins] = set(step.locks)
        elif step.time <= time and isinstance(step, Leaves):
            locks.pop(step.leaves, None)
    return locks.get(person, set())


@pytest.mark.parametrize("mode", ["server", "local", "auto"])
def test_no_random_scenario_opens_what_was_not_touched_when_the_frame_was_captured(mode):
    opened = 0
    for seed in range(25):
        history = steps(random.Random(f"{mode} {seed}"), 80)
        played = play(
            Scenario(
                title=f"random {seed}",
                setup={"mode": mode, "hold_s": HOLD_S},
                cameras=CAMERAS,
                members={"alice": MemberThere(locks=("DC001", "DC006")), "bob": MemberThere(locks=("DC007",))},
                at=tuple(history),
            )
        )
        assert played.strange == ()
        told = [(event, lock) for event in played.events for lock in event["unlockedLocks"]]
        for event in played.events:
            captured, decided = seconds(event["captured_at"]), seconds(event["identified_at"])
            assert set(event["occupancyTriggeredLocks"]) == occupied_at(history, captured, event["camera"])
            allowed = occupied_at(history, captured, event["camera"]) & may_open(history, decided, event["member"])
            assert set(event["unlockedLocks"]) <= allowed
        commands = sorted(f"{clock_of(seconds(event['identified_at']))} {lock}" for event, lock in told)
        assert set(commands) <= set(played.unlocked)
        assert all(at_some_frame(unlocked, history) for unlocked in played.unlocked)
        opened += len(played.unlocked)
    assert opened > 25  # else it would say little


def at_some_frame(unlocked: str, history: list) -> bool:
    """Whether a lock was touched at a frame whose match could be known at the time of the command."""
    time, lock = unlocked.split()
    frames = [step for step in history if isinstance(step, FrameTaken) and lock in CAMERAS[step.frame]]
    return any(
        frame.time <= seconds(f"T{time}") <= frame.time + 10.0 and lock in occupied_at(history, frame.time, frame.frame)
        for frame in frames
    )


def seconds(text: str) -> float:
    """Since midnight."""
    hours, minutes, rest = text.partition("T")[2].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
