import logging
import sys

import pytest
import structlog

from app.edge.__main__ import main
from app.edge.simulator.scenario import shipped_scenarios


@pytest.fixture(autouse=True)
def _logging():
    """A program sets up the logging of its process, which the other tests share."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_shipped_scenario_is_played_and_its_timeline_printed(capsys):
    assert main(["simulate", "two-locks-one-released"]) == 0
    said = capsys.readouterr().out
    assert "00:01:19  entrance: guest matched (server); unlocked: DC006" in said
    assert said.endswith("as expected\n")


def test_a_scenario_that_comes_out_otherwise_is_an_exit_code(tmp_path, capsys):
    scenario = tmp_path / "other.toml"
    text = shipped_scenarios()["two-locks-one-released"]
    scenario.write_text(text.replace('"00:01:19 DC006"', '"00:01:19 DC001"'))
    assert main(["simulate", str(scenario)]) == 1
    assert "NOT AS EXPECTED: unlocked: expected 00:01:19 DC001; it was 00:01:19 DC006" in capsys.readouterr().out


def test_without_a_name_the_shipped_ones_are_listed(capsys):
    assert main(["simulate"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(shipped_scenarios())


@pytest.mark.parametrize(
    "argv", [["simulate", "no-such"], ["--config", "no-such.toml"], ["check-config", "--config", "x"]]
)
def test_what_cannot_be_used_is_one_line_and_an_exit_code(argv, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("facedex edge: ")
    assert said.count("\n") == 1


def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numkong", None)
    for name in [name for name in sys.modules if name.startswith("app.edge.simulator.world")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "app.edge.snapshot", raising=False)
    for name in ("gallery", "rows", "codes"):
        monkeypatch.delitem(sys.modules, f"app.edge.{name}", raising=False)
    assert main(["simulate", "reboot"]) == 2
    assert "numkong is not installed" in capsys.readouterr().err
