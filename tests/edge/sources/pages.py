"""A feed made up for tests: what a server would answer, page by page."""

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from app.edge.sources.feed import FeedSource
from app.gallery_pages import MEDIA_TYPE, Header, PageMember, encode
from tests.edge.making import CONTRACT, DIMENSION, vector

Answer = httpx.Response | Exception
KEY = "fdx_this-is-secret"


def page(
    version: str,
    members: Sequence[tuple[str, int]] = (),
    removed: Sequence[str] = (),
    *,
    full: bool = False,
    more: bool = False,
    contract: str = CONTRACT,
    dimension: int = DIMENSION,
    locks_malformed: bool = False,
) -> bytes:
    """A page; each member has a key and the seed of their one template."""
    told = tuple(PageMember(key, f"name of {key}", None, None, ("DC001",), locks_malformed, 1) for key, _ in members)
    rows = [vector(seed, dimension).astype(np.float32)[None] for _, seed in members]
    return b"".join(encode(Header("s", contract, dimension, version, full, more, told, tuple(removed)), rows))


def answer(body: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(200, content=body, headers={"content-type": MEDIA_TYPE} | headers)


class Server:
    """Answers one after the other, and notes what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        following = self.answers.pop(0)
        if isinstance(following, Exception):
            raise following
        if not following.is_stream_consumed:
            return following
        # As it comes over a wire: to be read by whoever gets it.
        return httpx.Response(following.status_code, headers=following.headers, content=iter([following.content]))

    @property
    def since(self) -> list[str | None]:
        return [request.url.params.get("since") for request in self.asked]

    def source(self, **more: Any) -> FeedSource:
        return FeedSource("http://faces.test/", "a/b", lambda: KEY, transport=httpx.MockTransport(self), **more)
