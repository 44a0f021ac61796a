"""`flask edge …`: the edge controller, where all of Facedex is installed; `python -m app.edge` is the same without."""

from pathlib import Path

import click


@click.group()
def edge() -> None:
    """The door controller: run it, check its settings, replay scenarios."""


_CONFIG = click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file of settings (TOML)."
)


@edge.command()
@_CONFIG
def run(config: Path) -> None:
    """Run the controller until it is told to end (SIGTERM)."""
    _call("run", "--config", str(config))


@edge.command("check-config")
@_CONFIG
def check_config(config: Path) -> None:
    """Say whether the settings can be used, and what is wrong with them."""
    _call("check-config", "--config", str(config))


@edge.command()
@click.argument("scenario", required=False)
@click.option("--verbose", is_flag=True, help="The controller's log as well.")
def simulate(scenario: str | None, verbose: bool) -> None:
    """Replay SCENARIO, a file or the name of a shipped one, on a virtual clock; without one, list those.

    The exit code is 1 where it does not come out as the scenario expects.
    """
    _call("simulate", *(["--verbose"] if verbose else []), *([scenario] if scenario else []))


def _call(*argv: str) -> None:
    """Run the program, and pass its exit code on."""
    from app.edge.__main__ import main

    if code := main(argv):
        raise click.exceptions.Exit(code)
