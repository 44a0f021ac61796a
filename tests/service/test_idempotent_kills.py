"""PostgreSQL is killed again and again while clients write: what was acknowledged is there, once."""

import itertools
import logging
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
from PIL import Image

from tests import pictures
from tests.service.running import RunningService, eventually, running_service

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(1800)]

log = logging.getLogger(__name__)

# The supervisor's pause before it starts the server again doubles up to half a minute: fifty take some minutes.
KILLS = int(os.environ.get("FACEDEX_TEST_KILLS", "6"))
SEED = int(os.environ.get("FACEDEX_TEST_SEED", "7"))
CLIENTS = 4
_POSTMASTER_SHARE = 0.15
_IMPATIENT_SHARE = 0.1
_RETRIED = (503, 504)
_BACKEND = re.compile(r"facedex.*\[local\]")


@dataclass
class Writer:
    """A client that repeats each request, with its key, until it is answered; and what it was told."""

    service: RunningService
    number: int
    photos: list[bytes]
    names: dict[str, str] = field(default_factory=dict)
    faces: dict[str, set[str]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """Writes that were answered."""
        return sum(count for status, count in self.statuses.copy().items() if status.startswith("2"))

    def run(self, done: threading.Event) -> None:
        rng = random.Random(SEED * 100 + self.number)
        for count in itertools.count():
            if done.is_set() or self.wrong:
                return
            label = f"{self.number}-{count}"
            try:
                with self.service.client() as http:
                    self._live(http, rng, label)
            except Exception as error:  # a thread's exception would be lost
                self.wrong.append(f"{label}: {error!r}")

    def _live(self, http: httpx.Client, rng: random.Random, label: str) -> None:
        persons = "/v1/domains/kills/persons"
        told = self._until_answered(http, rng, "POST", persons, 201, json={"label": label})
        self.names[label], self.faces[label] = told["display_name"], set()
        photos = rng.sample(self.photos, rng.randint(1, 2))
        files = [("file", (f"{number}.jpg", data)) for number, data in enumerate(photos)]
        told = self._until_answered(http, rng, "POST", f"{persons}/{label}/faces", 201, files=files)
        if told["enrolled"] != len(photos):
            self.wrong.append(f"{label}: {told}")
        self.faces[label] = {entry["face"]["id"] for entry in told["results"]}
        name = f"{label} {rng.random()}"
        told = self._until_answered(http, rng, "PATCH", f"{persons}/{label}", 200, json={"display_name": name})
        self.names[label] = told["display_name"]
        if rng.random() < 0.3:
            face = rng.choice(sorted(self.faces[label]))
            self._until_answered(http, rng, "DELETE", f"{persons}/{label}/faces/{face}", 204)
            self.faces[label].discard(face)
        if rng.random() < 0.2:
            self._until_answered(http, rng, "DELETE", f"{persons}/{label}", 200)
            del self.names[label], self.faces[label]

    def _until_answered(
        self, http: httpx.Client, rng: random.Random, method: str, path: str, wanted: int, **options
    ) -> dict:
        key = str(uuid4())
        while True:
            # Some do not wait for the answer: it is lost, and the request is not.
            timeout = rng.uniform(0.005, 0.2) if rng.random() < _IMPATIENT_SHARE else 60
            try:
                answer = http.request(method, path, headers={"Idempotency-Key": key}, timeout=timeout, **options)
            except httpx.TransportError as error:
                self.statuses[type(error).__name__] += 1
                continue
            self.statuses[str(answer.status_code)] += 1
            if "Idempotent-Replayed" in answer.headers:
                self.statuses["replayed"] += 1
            unfinished = answer.status_code == 201 and b'"failed"' in answer.content and answer.json().get("failed")
            if answer.status_code in _RETRIED or unfinished:
                time.sleep(0.3)
                continue
            if answer.status_code != wanted:
                raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
            return answer.json() if answer.content else {}


def kill_something(service: RunningService, rng: random.Random) -> str:
    """Kill a backend or the postmaster, and wait until there is a postmaster again."""
    postmaster = service.postmaster()
    if rng.random() < _POSTMASTER_SHARE:
        postmaster.send_signal(signal.SIGKILL)
        eventually(lambda: is_up(service, besides=postmaster.pid), 120)
        return "postmaster"
    while True:
        backends = [child for child in postmaster.children() if _BACKEND.search(command(child))]
        with suppress(psutil.NoSuchProcess):  # ended by itself meanwhile
            if backends:
                rng.choice(backends).send_signal(signal.SIGKILL)
                return "backend"
        time.sleep(0.02)


def wait_for_writes(writers: list[Writer], count: int) -> None:
    """Until so many more were acknowledged: there is something to be lost."""
    before = sum(writer.acknowledged for writer in writers)
    eventually(
        lambda: (
            sum(writer.acknowledged for writer in writers) >= before + count or any(writer.wrong for writer in writers)
        ),
        120,
    )


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_up(service: RunningService, besides: int) -> bool:
    try:
        found = service.postmaster()
        return found.pid != besides and found.is_running() and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError, ValueError, IndexError):
        return False


def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    group = Image.open(pictures.group_photo()).convert("RGB")
    photos = [pictures.portrait().read_bytes(), pictures.encode(group.crop((663, 273, 900, 540)), quality=95)]
    rng = random.Random(SEED)
    killed: Counter[str] = Counter()
    with running_service(tmp_path / "s", env={"EMBEDDER_WORKERS": "2"}) as service:
        with service.client() as http:
            http.post("/v1/domains", json={"name": "kills"}).raise_for_status()
        done = threading.Event()
        writers = [Writer(service, number, photos) for number in range(CLIENTS)]
        threads = [threading.Thread(target=writer.run, args=[done]) for writer in writers]
        for thread in threads:
            thread.start()
        started_s = time.monotonic()
        try:
            while killed.total() < KILLS and not any(writer.wrong for writer in writers):
                wait_for_writes(writers, rng.randint(1, 6))
                time.sleep(rng.uniform(0, 0.2))
                killed[kill_something(service, rng)] += 1
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert [wrong for writer in writers for wrong in writer.wrong] == []
        elapsed_s = time.monotonic() - started_s
        statuses = sum((writer.statuses for writer in writers), Counter())
        check(service, writers)
        log.warning(f"{dict(killed)} killed in {elapsed_s:.0f} s; answers: {dict(statuses)}")
        verified = service.flask("audit", "verify", check=False)
        assert verified.returncode == 0, verified.stdout
        assert "broken" not in verified.stdout


def check(service: RunningService, writers: list[Writer]) -> None:
    """What is there is what the clients were told, no more and no less."""
    names = {label: name for writer in writers for label, name in writer.names.items()}
    faces = {label: found for writer in writers for label, found in writer.faces.items()}
    assert len(names) >= CLIENTS
    with service.client() as http:
        persons = everything(http, "/v1/domains/kills/persons")
        assert {person["label"]: person["display_name"] for person in persons} == names
        assert len(persons) == len(names)
        for person in persons:
            found = everything(http, f"/v1/domains/kills/persons/{person['label']}/faces")
            assert {face["id"] for face in found} == faces[person["label"]]
            assert len(found) == person["faces"] == len(faces[person["label"]])
        status = http.get("/v1/domains/kills").json()
        assert (status["persons"], status["embeddings"]) == (len(names), sum(map(len, faces.values())))
        enrolled = [
            event["details"]["face"] for event in everything(http, "/v1/domains/kills/audit?action=face.enrolled")
        ]
        assert len(enrolled) == len(set(enrolled))
        assert set().union(*faces.values()) <= set(enrolled)
        # A change that was made twice would look like one that was made once; its events tell.
        for action in ("person.created", "person.changed"):
            events = everything(http, f"/v1/domains/kills/audit?action={action}")
            told = Counter(event["persons"][0] for event in events)
            assert set(told.values()) == {1}
            assert {person["id"] for person in persons} <= set(told)


def everything(http: httpx.Client, path: str) -> list[dict]:
    items: list[dict] = []
    cursor = {}
    while True:
        page = http.get(httpx.URL(path).copy_merge_params({"limit": "500", **cursor})).raise_for_status().json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}
