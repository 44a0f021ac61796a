"""Scenarios: what happens when, and what has to come of it (`docs/edge.md` describes the file)."""

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.edge.config import Level
from app.edge.errors import ConfigError

_TIME: Final = re.compile(r"(\d\d):([0-5]\d):([0-5]\d(?:\.\d{1,3})?)")


def seconds_of(text: str) -> float:
    """`00:01:02.5` to 62.5.

    Raises:
        ValueError: it is no time of day.
    """
    found = _TIME.fullmatch(text)
    if found is None or int(found[1]) > 23:
        raise ValueError(f"{text!r} is no time such as 00:01:02")
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def clock_of(seconds: float) -> str:
    """62.5 to `00:01:02.5`; whole seconds without a fraction."""
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    text = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return text + (f".{rest:03}".rstrip("0") if rest else "")


def _parsed_time(value: object) -> object:
    return seconds_of(value) if isinstance(value, str) else value


Time = Annotated[float, BeforeValidator(_parsed_time)]
Positive = Annotated[float, Field(gt=0, le=86_400)]
Away = Literal["broker", "server"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Step(_Part):
    """Something that happens. `time`: when, from the scenario's midnight."""

    time: Time


class Touch(Step):
    """A lock reports a touch. `told`: when that arrives, if not at once; `lost`: it never does; `stamped`: it says when
    it was.
    """

    touch: Level
    stamped: bool = True
    told: Time | None = None
    lost: bool = False


class Release(Step):
    """A lock reports that the touch is over."""

    release: Level
    stamped: bool = True
    told: Time | None = None
    lost: bool = False


class Motion(Step):
    """A camera reports movement, or (`on = false`) its end."""

    motion: Level
    on: bool = True
    told: Time | None = None
    lost: bool = False


class FrameTaken(Step):
    """A camera takes a picture of these faces, and its recognition takes `seconds`. Whoever is no member is a stranger."""

    frame: Level
    faces: tuple[str, ...] = ()
    seconds: Annotated[float, Field(ge=0, le=3_600)] = 0.3


class GoesAway(Step):
    """The broker or the server cannot be reached from now on."""

    away: Away


class ComesBack(Step):
    """It can be reached again."""

    back: Away


class Reboot(Step):
    """The controller starts anew; what it knew of touches is gone, its gallery comes from its file."""

    reboot: Literal[True]


class Jump(Step):
    """The time of day is set, forward or back."""

    jump_s: Annotated[float, Field(ge=-1e6, le=1e6)]


class Joins(Step):
    """Somebody becomes a member, or what is known of them changes; the gallery learns it at that moment."""

    joins: str
    locks: tuple[Level, ...] = ()
    valid_from: Time | None = None
    valid_until: Time | None = None


class Leaves(Step):
    """Somebody is no member any more; the gallery learns it at that moment."""

    leaves: str


AnyStep = Touch | Release | Motion | FrameTaken | GoesAway | ComesBack | Reboot | Jump | Joins | Leaves
_KINDS: Final[Mapping[str, type[AnyStep]]] = {
    "touch": Touch,
    "release": Release,
    "motion": Motion,
    "frame": FrameTaken,
    "away": GoesAway,
    "back": ComesBack,
    "reboot": Reboot,
    "jump_s": Jump,
    "joins": Joins,
    "leaves": Leaves,
}


class MemberThere(_Part):
    """A member from the beginning."""

    locks: tuple[Level, ...] = ()
    valid_from: Time | None = None
    valid_until: Time | None = None


class Expected(_Part):
    """What has to come of it.

    Attributes:
        unlocked: `00:01:19 DC006`: exactly these commands reach their locks, in this order.
        refused: `00:01:19 DC001 not_occupied`, or without a lock, `00:01:19 no_context`: each of these is refused.
    """

    unlocked: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class Setup(_Part):
    """The settings that matter here, as in the file of settings."""

    mode: Literal["server", "local", "auto"] = "server"
    hold_s: Positive = 10.0
    max_age_s: Positive = 10.0
    session_s: Positive = 15.0


class Scenario(_Part):
    """A title, who and what there is, what happens, and what has to come of it. `at` is in the order of the file."""

    title: Annotated[str, Field(min_length=1)]
    why: str = ""
    setup: Setup = Setup()
    cameras: dict[Level, tuple[Level, ...]]
    members: dict[str, MemberThere] = {}
    at: tuple[AnyStep, ...] = ()
    expect: Expected = Expected()


def parse_scenario(text: str) -> Scenario:
    """Parse a scenario's file.

    Raises:
        ConfigError: it is no TOML, or something in it is unknown, missing or malformed.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from None
    steps = data.pop("at", [])
    if not isinstance(steps, list):
        raise ConfigError("at: has to be written [[at]]")
    try:
        scenario = Scenario.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ConfigError(_told("", error)) from None
    checked = tuple(_checked(number, step, scenario) for number, step in enumerate(steps, start=1))
    return scenario.model_copy(update={"at": checked})


def load_scenario(name: str) -> Scenario:
    """The scenario of that file, or the one of that name that comes with Facedex.

    Raises:
        ConfigError: there is none, or it is malformed; the message names it.
    """
    text = shipped_scenarios().get(name)
    if text is None:
        try:
            text = Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError):
            known = ", ".join(sorted(shipped_scenarios()))
            raise ConfigError(f"There is no scenario {name!r}, and no such file. There are: {known}.") from None
    try:
        return parse_scenario(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def shipped_scenarios() -> dict[str, str]:
    """The texts of those that come with Facedex, by name."""
    folder = resources.files("app.edge.simulator") / "scenarios"
    return {
        entry.name.removesuffix(".toml"): entry.read_text("utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def _checked(number: int, given: Any, scenario: Scenario) -> AnyStep:
    step = _step(number, given)
    camera = getattr(step, "frame", getattr(step, "motion", None))
    if camera is not None and camera not in scenario.cameras:
        raise ConfigError(f"at[{number}]: there is no camera {camera!r}")
    lock = getattr(step, "touch", getattr(step, "release", None))
    if lock is not None and not any(lock in locks for locks in scenario.cameras.values()):
        raise ConfigError(f"at[{number}]: no camera sees a lock {lock!r}")
    return step


def _step(number: int, given: Any) -> AnyStep:
    kinds = [kind for kind in _KINDS if isinstance(given, dict) and kind in given]
    if len(kinds) != 1:
        raise ConfigError(f"at[{number}]: exactly one of {', '.join(_KINDS)} is needed")
    try:
        return _KINDS[kinds[0]].model_validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        raise ConfigError(_told(f"at[{number}].", error)) from None


def _told(prefix: str, error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{prefix}{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in faults)
