"""Facedex: a self-hosted face recognition service."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Settings


def create_app(settings: "Settings") -> "Flask":
    """The web application: wiring only. Opens no connection, starts no thread, so that it may be made before a fork.

    The imports stand inside, so that the worker pool, whose modules live in this package too, does not load Flask.
    """
    from app.api.wiring import build_app

    return build_app(settings)
