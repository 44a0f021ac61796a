import re
from pathlib import Path

from app.edge.simulator.scenario import parse_scenario
from app.edge.simulator.world import play

TEXT = (Path(__file__).resolve().parents[2] / "docs/edge.md").read_text()


def test_the_scenario_in_the_documentation_comes_out_as_it_says():
    (scenario,) = re.findall(r"```toml\n(title = .*?)```", TEXT, flags=re.DOTALL)
    assert play(parse_scenario(scenario)).faults == ()
