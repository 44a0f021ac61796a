"""What every group of pages is made with."""

from flask import Blueprint
from werkzeug.exceptions import HTTPException

from app.errors import FacedexError
from app.frontend.errors import on_exception, on_facedex_error, on_http_exception

__all__ = ["page_blueprint"]


def page_blueprint(name: str) -> Blueprint:
    """A blueprint whose templates lie in this package, and whose errors are pages. Its routes are declared by `page_access`."""
    bp = Blueprint(name, "app.frontend", template_folder="templates")
    bp.register_error_handler(FacedexError, on_facedex_error)
    bp.register_error_handler(HTTPException, on_http_exception)
    bp.register_error_handler(Exception, on_exception)
    return bp
