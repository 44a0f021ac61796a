#!/usr/bin/env python3
"""`flask migrate-pkl` without Flask's command line: .venv/bin/python scripts/migrate_pkl.py --domain NAME --path FILE …"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.api.wiring import build_services
from app.cli.common import one_line
from app.cli.migrate import migrate_options, run_migration
from app.config import SettingsError, load_settings
from app.errors import FacedexError
from app.logs import configure_logging
from app.tenancy import acting, everything


@click.command()
@migrate_options
def main(**options: Any) -> None:
    """Move a DeepFace dataset into a domain. Run it again after an interruption: it goes on where it was."""
    try:
        settings = load_settings()
        configure_logging(settings, level="WARNING")
        with acting(everything("cli")):
            run_migration(build_services(settings), **options)
    except FacedexError as error:
        raise one_line(error) from None
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
