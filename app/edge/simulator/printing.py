"""A scenario's timeline, for a person to read."""

from app.edge.simulator.played import Played
from app.edge.simulator.scenario import Scenario


def told(scenario: Scenario, played: Played) -> str:
    """Title, timeline, what opened, what was refused, and whether that is what was expected."""
    lines = [scenario.title, *([scenario.why] if scenario.why else []), ""]
    lines += [str(entry) for entry in played.timeline]
    lines += ["", f"unlocked: {', '.join(played.unlocked) or 'nothing'}"]
    lines += [f"refused:  {refusal}" for refusal in played.refused]
    lines += [f"NOT AS EXPECTED: {fault}" for fault in played.faults] or ["as expected"]
    return "\n".join(lines)
