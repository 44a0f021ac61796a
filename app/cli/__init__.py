"""`flask --app wsgi …`: one file a group of commands."""

from flask import Flask


def register_commands(app: Flask) -> None:
    """Add every command to the application."""
    from app.cli.audit import audit
    from app.cli.benchmark import benchmark
    from app.cli.cache_embeddings import cache_embeddings
    from app.cli.doctor import doctor
    from app.cli.domains import domains
    from app.cli.edge import edge
    from app.cli.enrol import enrol
    from app.cli.erase import erase, export_person, purge
    from app.cli.imports import import_
    from app.cli.jobs import jobs
    from app.cli.keys import keys
    from app.cli.migrate import export_pkl, migrate_pkl
    from app.cli.models import models
    from app.cli.persons import persons
    from app.cli.quarantine import quarantine
    from app.cli.recognize import recognize

    galleries = (
        domains,
        persons,
        enrol,
        cache_embeddings,
        recognize,
        migrate_pkl,
        export_pkl,
        erase,
        purge,
        export_person,
    )
    for command in (*galleries, import_, jobs, keys, models, quarantine, audit, doctor, benchmark, edge):
        app.cli.add_command(command)
