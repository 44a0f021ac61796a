"""The edge's gallery against a running Facedex: who is enrolled matches, who is gone does not, whoever is killed in between."""

import io
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from app.edge.clock import SystemClock
from app.edge.errors import SourceRefused, SourceUnavailable
from app.edge.gallery import Gallery
from app.edge.snapshot import Match
from app.edge.sources.feed import FeedSource
from app.edge.sources.file import CacheFile
from app.edge.sync import GallerySync
from app.gallery_pages import MEDIA_TYPE, decode
from tests import pictures
from tests.service.running import SMALL, RunningService, eventually, running_service

pytestmark = pytest.mark.service

DOMAIN = "hotel Škoda"
HER = pictures.portrait().read_bytes()
HIM = pictures.filling_portrait().read_bytes()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may be killed."""
    with running_service(tmp_path_factory.mktemp("feed") / "storage", env=SMALL) as running:
        yield running


class Counting(httpx.HTTPTransport):
    """The real way to the server, which counts."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, int]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        self.answers.append((answer.status_code, int(answer.headers.get("content-length", -1))))
        return answer


@dataclass
class Edge(AbstractContextManager["Edge"]):
    """What a controller keeps of the gallery; made again, it is a new process of it."""

    url: str
    key: str
    contract: str
    dimension: int
    cache: Path
    transport: Counting = field(default_factory=Counting)

    def __post_init__(self) -> None:
        self.source = FeedSource(self.url, DOMAIN, lambda: self.key, transport=self.transport, page_members=2)
        self.gallery = Gallery(self.contract, self.dimension)
        kept = CacheFile(
            self.cache, source=self.source.name, contract=self.contract, dimension=self.dimension, max_age_s=3600.0
        )
        self.sync = GallerySync(self.gallery, self.source, kept, 3600.0, SystemClock())

    def __exit__(self, *_error: object) -> None:
        self.source.close()

    def restarted(self) -> "Edge":
        return Edge(self.url, self.key, self.contract, self.dimension, self.cache)

    def best(self, probe: np.ndarray) -> Match | None:
        found = self.gallery.snapshot.match(probe, now=time(), top_k=1)
        return found[0] if found and found[0].distance < 0.02 else None


def vector_of(http: httpx.Client, photo: bytes) -> tuple[np.ndarray, str]:
    told = http.post(
        "/v1/embeddings", files={"file": photo}, params={"faces": "largest", "vectors": "true"}
    ).raise_for_status()
    answer = told.json()
    return np.array(answer["faces"][0]["embedding"], dtype=np.float32), answer["contract"]


def person(label: str) -> str:
    return f"/v1/domains/{quote(DOMAIN, safe='')}/persons/{label}"


def enrol(http: httpx.Client, label: str, photo: bytes) -> str:
    """Their id."""
    told = http.post(f"{person(label)}/faces", files={"file": photo}).raise_for_status().json()
    assert told["results"][0]["status"] == "enrolled", told
    return told["person"]["id"]


def kill_everything(service: RunningService) -> None:
    """As when the power fails."""
    tree = service.tree()
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    service.process.wait()
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == []


@pytest.fixture(scope="module")
def key(own: RunningService) -> str:
    """For the feed alone, of the domain."""
    with own.client() as http:
        http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status()
        wanted = {"name": "edge", "scopes": ["gallery"], "domains": [DOMAIN]}
        return http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]


def someone_else(http: httpx.Client) -> bytes:
    """The largest face of the group photo, cut out."""
    group = pictures.group_photo().read_bytes()
    box = http.post("/v1/detect", files={"file": group}).raise_for_status().json()["faces"][0]["box"]
    x, y, w, h = (box[side] for side in "xywh")
    return pictures.encode(
        Image.open(io.BytesIO(group)).convert("RGB").crop((x - w, y - h, x + 2 * w, y + 2 * h)), "PNG"
    )


@pytest.fixture
def opened() -> Iterator[Callable[[Edge], Edge]]:
    """Closes what it is given."""
    with ExitStack() as stack:
        yield stack.enter_context


def test_the_edge_follows_and_goes_on_alone(
    own: RunningService, key: str, tmp_path: Path, opened: Callable[[Edge], Edge]
) -> None:
    with own.client() as http:
        photos = {"Ana": HER, "Bor": HIM, "Cid": someone_else(http)}
        probes = {label: vector_of(http, photo)[0] for label, photo in photos.items()}
        contract = vector_of(http, HER)[1]
        edge = opened(Edge(own.url, key, contract, len(probes["Ana"]), tmp_path / "members"))
        ids = {label: enrol(http, label, photos[label]) for label in ("Ana", "Bor")}
        http.patch(person("Ana"), json={"metadata": {"locks": ["DC006", "DC001"]}}).raise_for_status()

        edge.sync.sync_once()
        found = edge.best(probes["Ana"])
        assert found is not None
        assert (found.member.key, found.member.name) == (ids["Ana"], "Ana")
        assert found.member.locks == {"DC001", "DC006"}
        assert found.distance == pytest.approx(0.0, abs=1e-6)
        assert edge.best(probes["Cid"]) is None

        # Enrolled on the server: it matches after the next sync, by one small answer.
        ids["Cid"] = enrol(http, "Cid", photos["Cid"])
        asked = len(edge.transport.answers)
        edge.sync.sync_once()
        found = edge.best(probes["Cid"])
        assert found is not None
        assert found.member.key == ids["Cid"]
        assert [status for status, _ in edge.transport.answers[asked:]] == [200]
        assert edge.transport.answers[-1][1] < 2000
        # Nothing has changed: hardly anything is sent, and then nothing.
        edge.sync.sync_once()
        edge.sync.sync_once()
        assert [status for status, _ in edge.transport.answers[-2:]] == [200, 304]

        # Erased: never again, by a tombstone that has nothing but the id.
        before = edge.sync.state.version
        http.delete(person("Bor")).raise_for_status()
        told = httpx.get(
            feed_url(own), params={"since": before}, headers={"x-api-key": key}, timeout=60
        ).raise_for_status()
        header, templates = decode(told.content)
        assert (header.members, header.removed, len(templates), header.full) == ((), (ids["Bor"],), 0, False)
        assert b"Bor" not in told.content
        edge.sync.sync_once()
        assert edge.best(probes["Bor"]) is None
        # Of whom the last face is deleted: likewise.
        (face,) = http.get(f"{person('Cid')}/faces").raise_for_status().json()["items"]
        http.delete(f"{person('Cid')}/faces/{face['id']}").raise_for_status()
        edge.sync.sync_once()
        assert edge.best(probes["Cid"]) is None
        assert len(edge.gallery.snapshot) == 1
        edge.sync.stop()
        assert stat.S_IMODE(edge.cache.stat().st_mode) == 0o600

        enrol(http, "Cid", photos["Cid"])  # which the edge does not hear of any more
    kill_everything(own)
    with pytest.raises(SourceUnavailable):
        edge.sync.sync_once()
    assert edge.sync.state.failures == 1
    assert edge.best(probes["Ana"]) is not None

    again = opened(edge.restarted())
    assert again.sync.load()
    with pytest.raises(SourceUnavailable):
        again.sync.sync_once()
    assert again.sync.state.from_cache
    assert again.best(probes["Ana"]) == edge.best(probes["Ana"])
    assert again.best(probes["Bor"]) is None

    own.start()
    again.sync.sync_once()
    assert [status for status, _ in again.transport.answers] == [200]  # one answer, since the server is back
    assert again.transport.answers[0][1] < 2000
    found = again.best(probes["Cid"])
    assert found is not None
    assert found.member.key == ids["Cid"]
    assert len(again.gallery.snapshot) == 2
    # What a reader has who begins now.
    fresh = opened(Edge(own.url, key, contract, len(probes["Ana"]), tmp_path / "fresh"))
    fresh.sync.sync_once()
    for probe in probes.values():
        assert fresh.best(probe) == again.best(probe)

    # A web worker that is killed is replaced, and nobody has to begin anew.
    _, workers = own.web()
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    with own.client() as http:
        eventually(lambda: answers(http))
        http.delete(person("Ana")).raise_for_status()
    again.sync.sync_once()
    assert again.best(probes["Ana"]) is None
    assert len(again.gallery.snapshot) == 1


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def feed_url(service: RunningService) -> str:
    return f"{service.url}/v1/domains/{quote(DOMAIN, safe='')}/gallery"


def test_the_feed_answers_with_what_it_says(own: RunningService, key: str) -> None:
    url, shown = feed_url(own), {"x-api-key": key}
    told = httpx.get(url, headers=shown, timeout=60)
    assert (told.status_code, told.headers["content-type"]) == (200, MEDIA_TYPE)
    assert told.headers["cache-control"] == "private, no-cache"
    assert decode(told.content)[0].full
    unchanged = httpx.get(url, headers=shown | {"if-none-match": told.headers["etag"]}, timeout=60)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == told.headers["etag"]
    far = f"{'0' * 32}.7"
    assert decode(httpx.get(url, params={"since": far}, headers=shown, timeout=60).content)[0].full
    for query, code in (
        ({"since": "7"}, "invalid_request"),
        ({"since": ""}, "invalid_request"),
        ({"since": "x" * 200}, "invalid_parameters"),
        ({"limit": 0}, "invalid_parameters"),
        ({"limit": 5001}, "invalid_parameters"),
        ({"limit": "x"}, "invalid_parameters"),
    ):
        refused = httpx.get(url, params=query, headers=shown, timeout=60)
        assert refused.json()["code"] == code, query
        assert refused.headers["content-type"] == "application/problem+json"


def test_it_is_for_keys_that_may_copy_galleries(own: RunningService, key: str, tmp_path: Path) -> None:
    with own.client() as http:
        http.post("/v1/domains", json={"name": "others"}).raise_for_status()
        scopes = ["recognize", "enrol", "verify", "embed", "admin"]
        wanted = {"name": "all but", "scopes": scopes, "domains": [DOMAIN]}
        other = http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
    assert httpx.get(feed_url(own), headers={"x-api-key": other}, timeout=60).json()["code"] == "scope_missing"
    for domain, shown in (("others", key), (DOMAIN, other), (DOMAIN, "fdx_nonsense")):
        source = FeedSource(own.url, domain, lambda shown=shown: shown)
        with pytest.raises(SourceRefused):
            source.fetch(None)
        source.close()
