"""`/threshold`: what a domain's own gallery says about thresholds."""

from flask import render_template
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.frontend.pages import page_blueprint
from app.keys.principal import Scope

bp = page_blueprint("threshold")


@bp.get("/threshold")
@page_access(Scope.ADMIN, Scope.ENROL)
def show() -> ResponseReturnValue:
    """Show what the domain's threshold, and others, cost."""
    return render_template("threshold.html")
