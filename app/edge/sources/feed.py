"""Members from Facedex itself: `GET /v1/domains/{domain}/gallery`, by deltas."""

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from app.edge.errors import ConfigError, MalformedMembers, SourceRefused, SourceUnavailable, SourceWithdrawn
from app.edge.members import GalleryDelta
from app.edge.sources import Heard
from app.edge.sources.paging import Pages
from app.edge.timekeeping import parsed_date
from app.gallery_pages import MEDIA_TYPE, MalformedPage, decode

# One page: the server makes them of 16 MiB, but for a person with more templates than that.
_MAX_PAGE_BYTES: Final = 64 * 1024 * 1024
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024 * 1024
# Where what it told is forgotten while it is read, everything is told anew; that does not happen again and again.
_MAX_BEGINNINGS: Final = 3
_PAGE_WITHIN_S: Final = 300.0
_CHUNK_BYTES: Final = 256 * 1024


class FeedSource:
    """A domain's gallery on a Facedex server. It is for one thread at a time.

    Args:
        url: where Facedex is, such as `https://faces.example.com`.
        domain: the domain's name, or its id; one with a slash, or of dots alone, has to be named by the id.
        key: gives the API key, with the scope `gallery`, whenever it is needed: a file may have got a new one.
        timeout_s: for a connection, and for each part of an answer.
        page_members: of one page, at most.
        heard: is told when an answer was made, as `TimeOfDay.told`.
        transport: for tests.

    Raises:
        ConfigError: `url` is no address.
    """

    def __init__(
        self,
        url: str,
        domain: str,
        key: Callable[[], str],
        *,
        timeout_s: float = 10.0,
        page_members: int = 5000,
        heard: Heard = lambda date, asked_s, came_s: None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        base = url.rstrip("/")
        if not _is_plain(base):
            raise ConfigError(
                "The address of Facedex is none: it is like https://faces.example.com, without user or query."
            )
        self._url = f"{base}/v1/domains/{quote(domain, safe='')}/gallery"
        self.name = f"Facedex at {base}, domain {domain}"
        self._key = key
        self._page_members = page_members
        self._heard = heard
        # Once per version: what was told after it, where that was nothing.
        self._nothing_new: tuple[str, str, GalleryDelta] | None = None
        self._http = httpx.Client(timeout=timeout_s, transport=transport, follow_redirects=False)

    def __repr__(self) -> str:
        return f"FeedSource({self.name!r})"

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def fetch(self, since: str | None) -> GalleryDelta:
        """As `Source.fetch`; all pages of it, and nothing where one of them is no good."""
        known = self._nothing_new if self._nothing_new is not None and self._nothing_new[0] == since else None
        pages, version, beginnings, total = Pages(), since, 0, 0
        while True:
            body, etag = self._page(version, known[1] if known is not None and version == since else None)
            if body is None:
                assert known is not None
                return known[2]
            total += len(body)
            if total > _MAX_ANSWER_BYTES:
                raise MalformedMembers("The feed tells more than this controller takes.")
            try:
                header, templates = decode(body)
            except MalformedPage as error:
                raise MalformedMembers(f"The feed's answer cannot be used. {error}") from None
            if header.full:
                beginnings += 1
                if beginnings > _MAX_BEGINNINGS:
                    raise SourceUnavailable("The feed begins anew again and again.")
            pages.add(header, templates)
            if not header.more:
                break
            version = header.version
        delta = pages.delta()
        if since is not None and etag and not (delta.full or delta.upserts or delta.removed):
            self._nothing_new = since, etag, delta
        return delta

    def _page(self, since: str | None, known_etag: str | None) -> tuple[bytes | None, str]:
        """One answer's body and ETag; no body where it is still that of `known_etag`."""
        request = self._http.build_request(
            "GET",
            self._url,
            params={"limit": str(self._page_members)} | ({} if since is None else {"since": since}),
            headers={"x-api-key": self._checked_key(), "accept": MEDIA_TYPE, "accept-encoding": "identity"}
            | ({"if-none-match": known_etag} if known_etag else {}),
        )
        asked_s = time.monotonic()
        try:
            answer = self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise SourceUnavailable(f"{self.name} does not answer ({type(error).__name__}).") from None
        came_s = time.monotonic()
        try:
            still_known = known_etag if answer.status_code == httpx.codes.NOT_MODIFIED else None
            if not still_known:
                self._check(answer)
            if (date := parsed_date(answer.headers.get("date"))) is not None:
                self._heard(date, asked_s, came_s)
            if still_known:
                return None, still_known
            return self._body(answer), answer.headers.get("etag", "")
        except httpx.TransportError as error:
            raise SourceUnavailable(f"{self.name} broke off ({type(error).__name__}).") from None
        finally:
            answer.close()

    def _checked_key(self) -> str:
        try:
            key = self._key()
        except OSError as error:
            raise SourceRefused(f"The API key for {self.name} cannot be read: {error.strerror}.") from None
        if not (key and key.isascii() and key.isprintable()):
            raise SourceRefused(f"The API key for {self.name} is none.")
        return key

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise SourceUnavailable(f"{self.name} cannot answer now (HTTP {status}).")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise SourceWithdrawn(
                f"{self.name} does not accept the API key (HTTP {status}); it needs the scope gallery."
            )
        if status == httpx.codes.NOT_FOUND:
            raise SourceWithdrawn(f"{self.name}: there is no such domain for this key, or no feed (HTTP 404).")
        if status != httpx.codes.OK:
            raise SourceRefused(f"{self.name} refuses what it is asked (HTTP {status}).")
        if answer.headers.get("content-type", "").partition(";")[0].strip() != MEDIA_TYPE:
            raise MalformedMembers(f"{self.name} answers with something else than a gallery's page.")

    def _body(self, answer: httpx.Response) -> bytes:
        body, until = bytearray(), time.monotonic() + _PAGE_WITHIN_S
        for chunk in answer.iter_raw(_CHUNK_BYTES):
            body += chunk
            if len(body) > _MAX_PAGE_BYTES:
                raise MalformedMembers(f"{self.name} sends a page of more than {_MAX_PAGE_BYTES} bytes.")
            if time.monotonic() > until:
                raise SourceUnavailable(f"{self.name} is too slow: a page took more than {_PAGE_WITHIN_S:.0f} s.")
        return bytes(body)


def _is_plain(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is parsed here
    except ValueError:
        return False
    extra = parts.username or parts.password or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not extra
