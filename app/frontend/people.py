"""`/people`: who is in a domain, one person, adding many, and what looks wrong."""

from flask import render_template, request
from flask.typing import ResponseReturnValue

from app.api.access import page_access
from app.api.wiring import services
from app.errors import InvalidRequest
from app.frontend.pages import page_blueprint
from app.keys.principal import Scope

bp = page_blueprint("people")


@bp.get("/people")
@page_access(Scope.ENROL)
def show() -> ResponseReturnValue:
    """Everybody in a domain, to be searched."""
    return render_template("people.html")


@bp.get("/people/person")
@page_access(Scope.ENROL)
def person() -> ResponseReturnValue:
    """One person: names, validity, faces, and what can be done with them. The query says who, as names may be any text."""
    domain, label = request.args.get("domain", ""), request.args.get("label", "")
    if not domain or not label:
        raise InvalidRequest("The address does not say whom to show: it needs 'domain' and 'label'.")
    return render_template(
        "person.html",
        domain=services().domains.get(domain),
        person=services().persons.get(domain, label),
    )


@bp.get("/people/add")
@page_access(Scope.ENROL)
def add() -> ResponseReturnValue:
    """Enrol many pictures, of one person or of many."""
    settings = services().settings
    return render_template("people_add.html", max_bytes=settings.max_upload_bytes, stores_images=settings.store_images)


@bp.get("/people/check")
@page_access(Scope.ENROL)
def check() -> ResponseReturnValue:
    """Persons who may be one, and faces that may be somebody else's."""
    return render_template("people_check.html")
