"""Galleries in DeepFace's datasets, searched in memory; needs no database."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from app.datasets.compiled import CompiledDataset, PersonMatch
from app.datasets.contracts import fits_contract
from app.datasets.store import DatasetStore
from app.deadline import Deadline
from app.errors import ContractMismatch, DatasetNotFound, DomainNotFound
from app.names import as_uuid
from app.recognition.matching import Candidate
from app.recognition.service import FaceHits, SearchQuery
from app.tenancy import current_reach
from app.vision.faces import Float32Array


class PklRecognition:
    """The service that answers from datasets."""

    mode = "pkl"

    def __init__(self, datasets: DatasetStore) -> None:
        self._datasets = datasets

    def open(self, domain: str, deadline: Deadline) -> "PklGallery":
        """As `RecognitionService.open`. What is out of reach is not there: files know no policies."""
        try:
            if not current_reach().includes(domain):
                raise DatasetNotFound
            # A dataset that was never prepared is waited for, as long as a worker of the pool may still be asked afterwards.
            return PklGallery(domain, self._datasets.open(domain, wait_s=deadline.remaining_s() / 2))
        except DatasetNotFound as error:
            hint = " Datasets know domains by name only: use the name." if as_uuid(domain) is not None else ""
            raise DomainNotFound(f"There is no dataset of domain {domain!r}.{hint}") from error


@dataclass(frozen=True, slots=True)
class PklGallery:
    """A domain's dataset; the version that was the current one when it was opened."""

    domain: str
    dataset: CompiledDataset
    complete: bool = True
    key: None = None  # nobody could say when what is kept is out of date

    def searched(
        self, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> AbstractContextManager[list[FaceHits]]:
        """As `OpenGallery.searched`: exact."""
        return nullcontext(self._search(probes, query))

    def _search(self, probes: Sequence[Float32Array], query: SearchQuery) -> list[FaceHits]:
        model = self.dataset.record.model
        if not fits_contract(model, query.contract):
            raise ContractMismatch(
                f"The dataset of domain {self.domain!r} holds embeddings of DeepFace's model {model!r};"
                f" these are of {query.contract}."
            )
        if not probes:
            return []
        found = self.dataset.search(np.stack(probes), threshold=query.threshold, top_k=query.top_k)
        return [FaceHits(tuple(map(_candidate, matches)), "exact") for matches in found]


def _candidate(match: PersonMatch) -> Candidate:
    return Candidate(
        person_id=None,
        label=match.label,
        name=match.label,
        distance=match.min_distance,
        occurrences=match.occurrences,
        mean_distance=match.mean_distance,
    )
