from click.testing import CliRunner

from app.cli.edge import edge
from tests.edge.test_main import _logging

__all__ = ["_logging"]  # the program sets it up; the fixture puts it back


def test_a_scenario_is_played_and_its_exit_code_passed_on(tmp_path):
    played = CliRunner().invoke(edge, ["simulate", "two-locks-one-released"])
    assert played.exit_code == 0
    assert "unlocked: 00:01:19 DC006" in played.output
    assert CliRunner().invoke(edge, ["simulate", str(tmp_path / "nowhere.toml")]).exit_code == 2


def test_settings_are_checked_and_faults_named(tmp_path):
    (tmp_path / "edge.toml").write_text('name = "x"\nnmae = 1\n')
    for command in ("check-config", "run"):
        refused = CliRunner().invoke(edge, [command, "--config", str(tmp_path / "edge.toml")])
        assert refused.exit_code == 2
        assert "nmae: there is no such setting" in refused.output
