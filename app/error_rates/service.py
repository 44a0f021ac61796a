"""The error rates of a domain's own gallery, at bounded cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.db.domains import load_gallery
from app.db.gallery_feed import begin_reading
from app.db.gallery_sample import read_sample
from app.db.session import Database
from app.deadline import Deadline
from app.error_rates.comparing import Templates, compare
from app.error_rates.rates import Identification, Verification, identification, verification
from app.error_rates.tally import Histograms
from app.vision.packs import PackStore

# What a request may take: 64 MiB of templates, and some seconds of one core (docs/decisions/0025-…).
MAX_FLOATS: Final = 16 * 1024 * 1024
MAX_COMPARISONS: Final = 64_000_000
_BINS: Final = 60


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to look at.

    Attributes:
        templates: at most so many are read; None: as many as `MAX_FLOATS` allows.
        probes: at most so many of them search the others; None: as many as `MAX_COMPARISONS` allows.
    """

    templates: int | None = None
    probes: int | None = None

    def templates_of(self, dimension: int) -> int:
        """Of so many dimensions, how many to read."""
        return self.templates or max(1, MAX_FLOATS // dimension)

    def probes_of(self, templates: int) -> int:
        """Of so many templates, how many to search with."""
        return self.probes or max(1, MAX_COMPARISONS // max(1, templates))


@dataclass(frozen=True, slots=True)
class Size:
    """Of a gallery or a part of it."""

    persons: int
    templates: int


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """What a domain's gallery says about itself.

    Attributes:
        domain, model, contract: whose it is, and the pack that it was made for.
        threshold, margin: at which the current rates are.
        gallery: all of it.
        sample: the part that was looked at: the searches were made in it.
        probes: how many templates of it searched all others.
        histograms: genuine and impostor distances.
    """

    domain: str
    model: str
    contract: str
    threshold: float
    margin: float
    gallery: Size
    sample: Size
    probes: int
    histograms: Histograms
    verification: Verification
    identification: Identification

    @property
    def complete(self) -> bool:
        """Whether every template searched every other."""
        return self.probes == self.gallery.templates


class ErrorRateService:
    """Compares galleries with themselves."""

    def __init__(self, database: Database, packs: PackStore) -> None:
        self._database = database
        self._packs = packs

    def measure(
        self,
        domain: str,
        *,
        threshold: float | None = None,
        effort: Effort = Effort(),
        deadline: Deadline,
        tell: Callable[[int, int], None] = lambda done, of: None,
    ) -> ErrorRates:
        """Measure the gallery as it is now, with everybody in it, whether or not they are valid, and without rejections.

        Args:
            threshold: None is the model pack's.
            deadline: when to go on with what has been compared.
            tell: is told how many more probes are done, and of how many.

        Raises:
            DomainNotFound: no such domain.
            UnknownModel, InvalidPack: the domain's model pack is not installed, or damaged.
        """
        with self._database.transaction() as session:
            begin_reading(session)
            gallery = load_gallery(session, domain)
            calibration = self._packs.get(gallery.model).manifest.calibration
            sample = read_sample(session, gallery, effort.templates_of(gallery.dimension))
        bound = calibration.threshold if threshold is None else threshold
        templates = Templates(sample.vectors, sample.owners)
        probes = min(effort.probes_of(len(templates)), len(templates))
        found = compare(
            templates, probes=probes, threshold=bound, deadline=deadline, tell=lambda done: tell(done, probes)
        )
        return ErrorRates(
            domain=gallery.name,
            model=gallery.model,
            contract=gallery.contract,
            threshold=bound,
            margin=calibration.margin,
            gallery=Size(sample.all_persons, gallery.template_count),
            sample=Size(templates.persons, len(templates)),
            probes=len(found.searches.mate),
            histograms=Histograms.of(found.genuine, found.impostor, bins=_BINS),
            verification=verification(found, bound),
            identification=identification(found.searches, bound, calibration.margin),
        )
