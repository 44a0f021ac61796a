"""`/v1/domains/{domain}/error-rates`."""

from typing import Any, Final

from flask import g
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_request
from app.api.error_rate_schemas import ErrorRatesAnswer, ErrorRatesQuery
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import DomainPath
from app.api.wiring import services
from app.deadline import Deadline
from app.error_rates.rates import Point, Rate, Tradeoff
from app.error_rates.service import ErrorRates
from app.keys.principal import Scope

bp = APIBlueprint(
    "error_rates",
    __name__,
    url_prefix="/v1/domains/<domain>/error-rates",
    abp_tags=[Tag(name="domains")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

# Of the request's time; the rest is for reading the gallery, and for the last block.
_COMPARING_SHARE: Final = 0.6


@bp.get("", responses={200: ErrorRatesAnswer})
@access(Scope.ADMIN, Scope.ENROL)
def measure_error_rates(path: DomainPath, query: ErrorRatesQuery) -> ViewReturn:
    """Compare the domain's gallery with itself: distances, and what the threshold, and others, cost.

    Of a large gallery a part is looked at, and the answer says how large it is.
    """
    with services().long_requests.place(g.client.id):
        deadline = Deadline.after(_COMPARING_SHARE * g.deadline.remaining_s())
        found = services().error_rates.measure(path.domain, threshold=query.threshold, deadline=deadline)
    return dump_error_rates(found, query.rate) | dump_request()


def dump_error_rates(found: ErrorRates, rate: float) -> dict[str, Any]:
    """`ErrorRatesAnswer`, without what it says of the request."""
    verification, identification = found.verification, found.identification
    enrolled, unenrolled = identification.ambiguous
    return {
        "domain": found.domain,
        "model": found.model,
        "contract": found.contract,
        "threshold": found.threshold,
        "margin": found.margin,
        "rate": rate,
        "gallery": {"persons": found.gallery.persons, "templates": found.gallery.templates},
        "sample": {
            "persons": found.sample.persons,
            "templates": found.sample.templates,
            "probes": found.probes,
            "complete": found.complete,
        },
        "distances": {
            "upto": found.histograms.upto,
            "genuine": found.histograms.genuine,
            "impostor": found.histograms.impostor,
        },
        "verification": {
            "current": _dump_point(verification.current, "fmr", "fnmr"),
            "chosen": _dump_chosen(verification.tradeoff, rate, "fmr", "fnmr"),
            "curve": [_dump_point(point, "fmr", "fnmr") for point in verification.tradeoff.curve()],
        },
        "identification": {
            "persons": found.sample.persons,
            "current": _dump_point(identification.current, "fpir", "fnir"),
            "misnamed": identification.misnamed,
            "ambiguous": {"enrolled": enrolled, "unenrolled": unenrolled},
            "chosen": _dump_chosen(identification.tradeoff, rate, "fpir", "fnir"),
            "curve": [_dump_point(point, "fpir", "fnir") for point in identification.tradeoff.curve()],
        },
    }


def _dump_chosen(tradeoff: Tradeoff, rate: float, positive: str, negative: str) -> dict[str, Any] | None:
    point = tradeoff.at_rate(rate)
    return None if point is None else _dump_point(point, positive, negative)


def _dump_point(point: Point, positive: str, negative: str) -> dict[str, Any]:
    return {
        "threshold": point.threshold,
        positive: _dump_rate(point.false_positive),
        negative: _dump_rate(point.false_negative),
    }


def _dump_rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.bounds
    shares = {"rate": rate.value, "low": low, "high": high}
    return {"errors": rate.errors, "trials": rate.trials} | {
        name: None if share is None else float(f"{share:.6g}") for name, share in shares.items()
    }
