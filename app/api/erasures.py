"""Receipts as answers."""

from collections.abc import Callable
from contextlib import nullcontext

from flask import Response, g, jsonify

from app.api.idempotency import resumable
from app.api.wiring import services
from app.db.idempotency import Claim
from app.erasure.receipt import Receipt


def answer_erasure(erase: Callable[[Claim | None], Receipt], *, is_long: Callable[[], bool]) -> Response:
    """The receipt of an erasure, which is done once for each idempotency key.

    It is no single transaction: files are deleted once the database has committed. What was erased for which key is noted with
    the erasure, so that a repetition takes up one that was broken off.

    Args:
        is_long: whether it may take a dataset's rewriting. Such ones leave threads to others, as requests of many pictures do.

    Raises:
        PoolBusy: too many of them are in work; nobody was erased.
    """

    def work(claim: Claim | None) -> tuple[Response, bool]:
        with services().long_requests.place(g.client.id) if is_long() else nullcontext():
            receipt = erase(claim)
        return jsonify(receipt.as_json()), receipt.is_finished

    return resumable(work)
