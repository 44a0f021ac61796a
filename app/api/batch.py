"""The answer to many pictures: whole, or streamed as they finish."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import structlog
from flask import Response, jsonify

from app.api.metrics import BATCH_PICTURES
from app.api.openapi import ViewReturn
from app.api.problems import problem_response
from app.config import Settings
from app.deadline import Deadline
from app.embedder.answer import embeddings_to_json, timings_to_json
from app.embedder.batch import Outcome, analyze_each, pictures_at_once
from app.errors import ClientGone, PoolBusy, UnknownModel
from app.vision.faces import Analysis, summed_timings

log = structlog.stdlib.get_logger("facedex.api")


@dataclass(frozen=True, slots=True)
class Batch:
    """What to do; holds nothing of Flask's, whose request may be over while its answer is streamed.

    Attributes:
        names: of the files.
        pictures: the files' bytes by their place; each is dropped once it has been looked at, however long the answer takes.
        analyze: from a file's bytes to its faces, within a deadline; called in several threads.
        settings: how many pictures at once, and how long each may take.
        hung_up: whether the client is gone.
        request_id: of the request.
        started_s: when it began, on the monotonic clock.
    """

    names: Sequence[str]
    pictures: dict[int, bytes]
    analyze: Callable[[bytes, Deadline], Analysis]
    settings: Settings
    hung_up: Callable[[], bool]
    request_id: str
    started_s: float

    def outcomes(self) -> Generator[Outcome]:
        """Every file's outcome, in the order in which they finish."""
        return analyze_each(
            range(len(self.names)),
            self._analyze,
            parallel=pictures_at_once(self.settings, len(self.names)),
            deadline_s=self.settings.request_deadline_s,
            abandoned=self.hung_up,
        )

    def _analyze(self, index: int, deadline: Deadline) -> Analysis:
        data = self.pictures.pop(index)
        try:
            return self.analyze(data, deadline)
        except PoolBusy:
            self.pictures[index] = data  # its turn comes again
            raise

    def entry(self, outcome: Outcome) -> dict[str, Any]:
        """`PictureResult`."""
        head = {"index": outcome.index, "file": self.names[outcome.index]}
        if outcome.analysis is not None:
            return head | {"status": "ok"} | embeddings_to_json(outcome.analysis)
        assert outcome.error is not None
        return head | {"status": "error", "code": outcome.error.code, "detail": str(outcome.error)}


@dataclass(slots=True)
class _Tally:
    """What the summary says."""

    batch: Batch
    failed: int = 0
    analyses: list[Analysis] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        BATCH_PICTURES.labels(outcome.error.code if outcome.error else "ok").inc()
        if outcome.analysis is None:
            self.failed += 1
        else:
            self.analyses.append(outcome.analysis)

    def summary(self) -> dict[str, Any]:
        """`BatchSummary`."""
        elapsed_s = time.monotonic() - self.batch.started_s
        succeeded = len(self.analyses)
        log.info(f"[EMBED] Batch of {succeeded + self.failed}: {self.failed} failed, {elapsed_s:.2f}s")
        return {
            "succeeded": succeeded,
            "failed": self.failed,
            "timings_ms": timings_to_json(summed_timings(self.analyses)),
            "elapsed_time": round(elapsed_s, 4),
            "request_id": self.batch.request_id,
        }


def json_answer(batch: Batch) -> ViewReturn:
    """One document, with the results in the order of the files.

    Raises:
        UnknownModel: the pool has not got the model that was asked for.
        ClientGone: nobody waits for the answer.
    """
    tally, outcomes = _Tally(batch), []
    with closing(batch.outcomes()) as found:
        for outcome in found:
            _refuse_unknown_model(outcome)
            tally.count(outcome)
            outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: outcome.index)
    answer = tally.summary() | {"results": [batch.entry(outcome) for outcome in outcomes]}
    if tally.analyses:
        return jsonify(answer)
    first = outcomes[0].error
    assert first is not None
    return problem_response(first, **answer)


def streamed_answer(batch: Batch) -> Response:
    """One JSON line per picture as it finishes, then a summary.

    Raises:
        UnknownModel: as `json_answer`, and so found before anything is streamed.
    """
    found = batch.outcomes()
    try:
        first = next(found)
        _refuse_unknown_model(first)
    except BaseException:
        found.close()
        raise
    # A proxy that collects the answer would undo the stream; nginx reads this header.
    response = Response(
        _lines(batch, first, found), mimetype="application/x-ndjson", headers={"X-Accel-Buffering": "no"}
    )
    response.call_on_close(found.close)
    return response


def _lines(batch: Batch, first: Outcome, rest: Iterable[Outcome]) -> Generator[str]:
    tally = _Tally(batch)
    try:
        for outcome in chain([first], rest):
            tally.count(outcome)
            yield _line(batch.entry(outcome))
    except (ClientGone, GeneratorExit):  # the second where a line could not be sent
        log.info("[EMBED] Batch given up: the client hung up")
        return
    yield _line({"summary": True} | tally.summary())


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"


def _refuse_unknown_model(outcome: Outcome) -> None:
    """A wrong parameter, and no picture's fault."""
    if isinstance(outcome.error, UnknownModel):
        raise outcome.error
