"""`/live`: a camera, a session of frames, and what it comes to."""

from flask import g, render_template
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.api.wiring import services
from app.frontend.pages import page_blueprint
from app.keys.principal import Scope

bp = page_blueprint("live")


@bp.get("/live")
@page_access(Scope.ENROL, Scope.VERIFY)
def show() -> ResponseReturnValue:
    """Enrol or verify somebody in front of a camera, whichever the key is for."""
    scopes = g.client.scopes
    return render_template(
        "live.html",
        may_enrol=Scope.ENROL in scopes,
        may_verify=Scope.VERIFY in scopes,
        max_bytes=services().settings.session_max_frame_bytes,
    )
