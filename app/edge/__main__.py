"""`python -m app.edge --config FILE`: the edge controller; `simulate SCENARIO` and `check-config` are beside it."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import structlog

from app.edge.advice import advice
from app.edge.config import load_config
from app.edge.errors import EdgeError
from app.edge.secrets import read_secrets

log = structlog.stdlib.get_logger("facedex.edge")

_DEFAULT_CONFIG = Path("/etc/facedex-edge/edge.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0: it was told to end, or all is well; 1: a scenario did not come out as expected; 2: the settings are wrong.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "simulate":
            return _simulate(arguments.scenario, verbose=arguments.verbose)
        if arguments.command == "check-config":
            return _check(arguments.config)
        return _run(arguments.config)
    except BrokenPipeError:  # as in `… simulate | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return 0
    except EdgeError as error:
        sys.stderr.write(f"facedex edge: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        # The server has not all that the edge needs: it is installed on purpose.
        if (error.name or "app").partition(".")[0] == "app":
            raise
        sys.stderr.write(f"facedex edge: {error.name} is not installed; requirements-edge.txt has all that is needed\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.edge", description="The edge controller of Facedex.")
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, help="the file of settings (TOML)")
    commands = parser.add_subparsers(dest="command", title="commands (without one: run)")
    for name, told in (
        ("run", "run until SIGTERM or SIGINT"),
        ("check-config", "say whether the settings can be used"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="the file of settings (TOML)")
    simulate = commands.add_parser("simulate", help="replay a scenario on a virtual clock")
    simulate.add_argument("scenario", nargs="?", help="a file, or the name of a shipped scenario; none: list those")
    simulate.add_argument("--verbose", action="store_true", help="the controller's log as well")
    return parser


def _run(path: Path) -> int:
    from app.edge.running import Edge

    config = load_config(path)
    configure_logging(config.log_format, config.log_level)
    secrets = read_secrets(config)
    for sentence in advice(config):
        log.warning(sentence)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    edge = Edge(config, secrets)
    edge.start()
    ending.wait()
    edge.stop()
    return 0


def _check(path: Path) -> int:
    from app.edge.clock import SystemClock
    from app.edge.wiring import make_gallery, make_source

    config = load_config(path)
    secrets = read_secrets(config)
    gallery = make_gallery(config)
    source = make_source(config, secrets, gallery, SystemClock())
    sys.stdout.write(
        f"{path} can be used: {config.name}, {len(config.cameras)} cameras, {len(config.locks)} locks, "
        f"recognition {config.recognition.mode}, members from {source.name}, templates {gallery.contract}\n"
    )
    for sentence in advice(config):
        sys.stdout.write(f"but: {sentence}\n")
    return 0


def _simulate(name: str | None, *, verbose: bool) -> int:
    from app.edge.simulator.printing import told
    from app.edge.simulator.scenario import load_scenario, shipped_scenarios
    from app.edge.simulator.world import play

    configure_logging("console", "DEBUG" if verbose else "CRITICAL")
    if name is None:
        for shipped in shipped_scenarios():
            sys.stdout.write(f"{shipped}: {load_scenario(shipped).title}\n")
        return 0
    scenario = load_scenario(name)
    played = play(scenario)
    sys.stdout.write(told(scenario, played) + "\n")
    return 1 if played.faults else 0


def configure_logging(form: Literal["console", "json"], level: str) -> None:
    """Everything goes to standard error, a line each."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Each request has its address in it, at INFO.
    for chatty in ("httpx", "httpcore", "botocore", "boto3", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


if __name__ == "__main__":
    sys.exit(main())
