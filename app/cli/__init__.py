"""`flask --app wsgi …`: one file a group of commands."""

from flask import Flask


def register_commands(app: Flask) -> None:
    """Add every command to the application."""
    from app.cli.doctor import doctor
    from app.cli.domains import domains
    from app.cli.enrol import enrol
    from app.cli.migrate import export_pkl, migrate_pkl
    from app.cli.models import models
    from app.cli.quarantine import quarantine
    from app.cli.recognize import recognize

    for command in (domains, enrol, recognize, migrate_pkl, export_pkl, models, quarantine, doctor):
        app.cli.add_command(command)
