import pytest

from app.edge.errors import ConfigError
from app.edge.simulator.printing import told
from app.edge.simulator.scenario import clock_of, load_scenario, parse_scenario, seconds_of, shipped_scenarios
from app.edge.simulator.world import play

SMALL = """
title = "small"
[cameras]
entrance = ["DC001"]
[members.guest]
locks = ["DC001"]
[[at]]
time = "00:01:00"
touch = "DC001"
[[at]]
time = "00:01:01"
frame = "entrance"
faces = ["guest"]
"""


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_a_shipped_scenario_comes_out_as_it_says(name):
    scenario = load_scenario(name)
    played = play(scenario)
    assert played.faults == (), told(scenario, played)


def test_there_are_scenarios_of_all_kinds():
    scenarios = [load_scenario(name) for name in shipped_scenarios()]
    assert len(scenarios) >= 13
    kinds = {type(step).__name__ for scenario in scenarios for step in scenario.at}
    assert {
        "Touch",
        "Release",
        "Motion",
        "FrameTaken",
        "GoesAway",
        "ComesBack",
        "Reboot",
        "Jump",
        "Joins",
        "Leaves",
    } == kinds
    assert all(scenario.expect.unlocked or scenario.expect.refused for scenario in scenarios)


def test_the_case_that_failed_is_told_step_by_step():
    scenario = load_scenario("two-locks-one-released")
    text = told(scenario, play(scenario))
    assert "00:01:15  entrance: frame of guest; occupied: DC006" in text
    assert "00:01:19  entrance: guest matched (server); unlocked: DC006" in text
    assert text.endswith("as expected")


def test_who_recognised_is_told_while_the_server_is_away():
    text = told(load_scenario("server-away"), play(load_scenario("server-away")))
    assert "00:01:01.3  entrance: guest matched (server)" in text
    assert "00:01:03.3  entrance: guest matched (local)" in text
    assert "00:01:08.3  entrance: guest matched (server)" in text


def test_an_event_is_published_for_every_match():
    (event,) = play(parse_scenario(SMALL)).events
    assert event["member"] == "guest"
    assert event["occupancyTriggeredLocks"] == ["DC001"]
    assert event["onvifTriggered"] is False
    assert event["identified_at"] == "2026-01-01T00:01:01.300Z"


@pytest.mark.parametrize(
    ("expect", "fault"),
    [
        ("unlocked = []", "unlocked: expected nothing; it was 00:01:01.3 DC001"),
        ('unlocked = ["00:01:02 DC001"]', "unlocked: expected 00:01:02 DC001"),
        (
            'unlocked = ["00:01:01.3 DC001"]\nrefused = ["00:01:01.3 DC001 frame_too_old"]',
            "not refused: 00:01:01.3 DC001 frame_too_old",
        ),
    ],
)
def test_what_is_not_as_expected_is_a_fault(expect, fault):
    (found,) = play(parse_scenario(f"{SMALL}[expect]\n{expect}\n")).faults
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('touch = "DC001"', 'tuch = "DC001"'), r"at\[1\]: exactly one of"),
        (('touch = "DC001"', 'touch = "DC001"\nframe = "entrance"'), r"at\[1\]: exactly one of"),
        (('"00:01:00"', '"00:99:00"'), r"at\[1\].time"),
        (('title = "small"', ""), "title"),
        (('title = "small"', 'titel = "small"'), "titel"),
        (('frame = "entrance"', 'frame = "nowhere"'), r"at\[2\]: there is no camera 'nowhere'"),
        (('touch = "DC001"', 'touch = "DC002"'), r"at\[1\]: no camera sees a lock 'DC002'"),
        (("[[at]]", "[at]"), "not TOML|at: has to be"),
    ],
)
def test_a_malformed_scenario_says_where(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_scenario(SMALL.replace(*change, 1))


def test_a_scenario_that_does_not_exist_is_an_error_that_lists_those_that_do():
    with pytest.raises(ConfigError, match="two-locks-one-released"):
        load_scenario("no-such")


def test_a_file_is_read_too(tmp_path):
    (tmp_path / "mine.toml").write_text(SMALL)
    assert load_scenario(str(tmp_path / "mine.toml")).title == "small"


def test_times_are_read_and_written():
    for text in ("00:00:00", "23:59:59.5", "00:01:02.125"):
        assert clock_of(seconds_of(text)) == text
