"""The pages: server-rendered, with scripts that call the same API as every other client."""

from flask import Flask
from jinja2 import StrictUndefined

from app.frontend import domains, live, operations, people, recognise, sign_in, threshold
from app.frontend.errors import register_page_errors
from app.frontend.headers import register_page_headers
from app.frontend.navigation import register_navigation
from app.frontend.static_files import register_static_files
from app.frontend.texts import register_texts

__all__ = ["register_pages"]


def register_pages(app: Flask) -> None:
    """Add the pages to the application, after its other routes."""
    app.jinja_env.undefined = StrictUndefined
    register_page_headers(app)
    register_page_errors(app)
    register_static_files(app)
    register_texts(app)
    register_navigation(app)
    for module in (sign_in, recognise, people, live, domains, operations, threshold):
        app.register_blueprint(module.bp)
