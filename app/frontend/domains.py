"""`/domains`: the domains within reach, and how each is."""

from flask import render_template
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.frontend.pages import page_blueprint

bp = page_blueprint("domains_page")


@bp.get("/domains")
@page_access()
def show() -> ResponseReturnValue:
    """List domains, make new ones, and report one's status."""
    return render_template("domains.html")
