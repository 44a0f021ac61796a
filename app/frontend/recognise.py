"""`/`: a picture in, names on it."""

from typing import Final

from flask import render_template
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.api.wiring import services
from app.frontend.navigation import may
from app.frontend.pages import page_blueprint
from app.keys.principal import Scope

bp = page_blueprint("recognise")

# What is offered beside recognising, by the routes that it needs.
_OFFERS: Final = {
    "reject": "rejections.reject_face",
    "enrol": "faces.enrol_faces",
    "suggest": "persons.list_persons",
    "pictures": "thumbnails.get_person_thumbnail",
}


@bp.get("/")
@page_access(Scope.RECOGNIZE)
def show() -> ResponseReturnValue:
    """Recognise pictures; correct what was wrong, and enrol who was not known."""
    allowed = [offer for offer, endpoint in _OFFERS.items() if may(endpoint)]
    settings = services().settings
    if not settings.store_images:
        allowed = [offer for offer in allowed if offer != "pictures"]
    return render_template("recognise.html", max_bytes=services().settings.max_upload_bytes, allowed=allowed)
