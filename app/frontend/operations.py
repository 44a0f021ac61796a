"""`/operations`: how the service is."""

from flask import render_template
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.frontend.pages import page_blueprint

bp = page_blueprint("operations_page")


@bp.get("/operations")
@page_access()
def show() -> ResponseReturnValue:
    """Show pool, jobs, decisions and migrations as they are, as far as the key may see them."""
    return render_template("operations.html")
