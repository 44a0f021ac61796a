"""Error rates as the API shows them, as pydantic models: see `schemas.py`."""

from pydantic import BaseModel, Field

from app.api.schemas import Input


class ErrorRatesQuery(Input):
    """What to measure at."""

    threshold: float | None = Field(
        None, gt=0, le=2, description="cosine distance for `current`; the model pack's where it is not given"
    )
    rate: float = Field(0.001, gt=0, lt=1, description="the false positive rate for `chosen`: FMR and FPIR")


class RateOut(BaseModel):
    """So many of so many went wrong."""

    errors: int
    trials: int
    rate: float | None = Field(description="null where nothing was tried")
    low: float = Field(description="95 % bounds, as if the trials shared no people: Wilson's interval")
    high: float = Field(description="without an error 3 / trials: the rule of three")


class VerificationPoint(BaseModel):
    """What a threshold costs in comparisons (1:1)."""

    threshold: float
    fmr: RateOut
    fnmr: RateOut


class IdentificationPoint(BaseModel):
    """What a threshold costs in searches (1:N)."""

    threshold: float
    fpir: RateOut
    fnir: RateOut


class SizeOut(BaseModel):
    """Of a gallery, or of a part of it."""

    persons: int
    templates: int


class SampleOut(SizeOut):
    """What was looked at."""

    probes: int = Field(description="templates that were compared with all others of the sample")
    complete: bool = Field(description="whether that is everything")


class HistogramsOut(BaseModel):
    """Distances in equal bins from 0 to `upto`."""

    upto: float
    genuine: list[int] = Field(description="of two templates of one person")
    impostor: list[int] = Field(description="of templates of two persons")


class VerificationRates(BaseModel):
    """Each pair of templates once."""

    current: VerificationPoint
    chosen: VerificationPoint | None = Field(
        description="the threshold for the chosen FMR; null without two persons' templates"
    )
    curve: list[VerificationPoint] = Field(description="DET: FMR against FNMR")


class AmbiguousOut(BaseModel):
    """Probes that found two persons too close to each other."""

    enrolled: int
    unenrolled: int


class IdentificationRates(BaseModel):
    """Each probe searches all other templates, and those of all other persons.

    `misnamed` is how many of the false negatives were named as somebody else.
    """

    persons: int = Field(description="in the gallery that was searched: FPIR grows with it")
    current: IdentificationPoint
    misnamed: int
    ambiguous: AmbiguousOut
    chosen: IdentificationPoint | None = Field(description="the threshold for the chosen FPIR")
    curve: list[IdentificationPoint] = Field(description="DET: FPIR against FNIR")


class ErrorRatesAnswer(BaseModel):
    """The error rates of a domain's own gallery."""

    domain: str
    model: str
    contract: str
    threshold: float
    margin: float
    rate: float
    gallery: SizeOut
    sample: SampleOut
    distances: HistogramsOut
    verification: VerificationRates
    identification: IdentificationRates
    elapsed_time: float = Field(description="seconds")
    request_id: str
