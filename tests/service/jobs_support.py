"""What the tests of jobs share: zips, and waiting for an end."""

import io
import signal
import zipfile
from contextlib import contextmanager

import httpx
import psutil
from PIL import Image

from tests.pictures import filling_portrait
from tests.service.running import RunningService, eventually

ENDED = {"succeeded", "failed", "cancelled"}


def zip_of(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return written.getvalue()


def photos(count: int) -> list[bytes]:
    """One face, each time as another file."""
    face = Image.open(filling_portrait()).convert("RGB")
    made = []
    for number in range(count):
        face.putpixel((0, 0), (number % 256, number // 256, 0))
        out = io.BytesIO()
        face.save(out, "PNG")
        made.append(out.getvalue())
    return made


def upload(http: httpx.Client, domain: str, data: bytes, **options) -> httpx.Response:
    return http.post(f"/v1/domains/{domain}/imports", files={"file": ("people.zip", data)}, **options)


def ended(http: httpx.Client, job: str) -> dict:
    """The job once it has ended."""
    eventually(lambda: http.get(f"/v1/jobs/{job}").json()["state"] in ENDED, 240)
    return http.get(f"/v1/jobs/{job}").json()


def files_of(http: httpx.Client, job: str, **query) -> list[dict]:
    """All files of a job, page by page."""
    found, cursor = [], None
    while True:
        page = http.get(f"/v1/jobs/{job}/files", params=query | ({"cursor": cursor} if cursor else {}))
        page = page.raise_for_status().json()
        found += page["items"]
        if (cursor := page["next_cursor"]) is None:
            return found


def jobs_worker(service: RunningService) -> psutil.Process:
    """The service's own jobs worker."""
    return service.part("-m", "app.jobs")[0]


@contextmanager
def paused_worker(service: RunningService):
    """No job is begun in the block, and none goes on."""
    process = jobs_worker(service)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
