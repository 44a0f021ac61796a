"""Fetching a pack's archive over the network, at installation only."""

import hashlib
import ipaddress
from collections.abc import Callable
from pathlib import Path

import httpx

from app.errors import DownloadFailed

# Bytes received so far; bytes to come in all, None where the server does not say.
Progress = Callable[[int, int | None], None]

ARCHIVE_MAX_BYTES = 2 * 1024**3
_CHUNK_BYTES = 1024 * 1024
_TIMEOUT = httpx.Timeout(30.0)


def fetch(url: str, target: Path, *, sha256: str | None = None, progress: Progress | None = None) -> str:
    """Download a file; returns its SHA-256.

    Args:
        url: https, or http from this very machine.
        sha256: what the digest has to be, where it is known.

    Raises:
        DownloadFailed: the server cannot be reached or refuses, the transfer breaks off, the file is too large, or its
            digest is another.
    """
    address = public_address(url)
    try:
        # Checked for every address on the way: a redirect must not lead from https to http.
        hooks = {"request": [_refuse_plain_http]}
        with (
            httpx.Client(follow_redirects=True, timeout=_TIMEOUT, event_hooks=hooks) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise DownloadFailed(f"The server answered {response.status_code} for {address}")
            digest = _receive(response, target, progress)
    except httpx.HTTPError as error:
        raise DownloadFailed(f"{address} could not be fetched: {type(error).__name__}") from error
    if sha256 is not None and digest != sha256:
        raise DownloadFailed(f"{address} has the SHA-256 {digest}, not the known {sha256}")
    return digest


def _receive(response: httpx.Response, target: Path, progress: Progress | None) -> str:
    announced = response.headers.get("content-length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() else None
    digest, received = hashlib.sha256(), 0
    with target.open("wb") as stream:
        for chunk in response.iter_bytes(_CHUNK_BYTES):
            received += len(chunk)
            if received > ARCHIVE_MAX_BYTES:
                raise DownloadFailed(f"The archive is larger than {ARCHIVE_MAX_BYTES} bytes")
            stream.write(chunk)
            digest.update(chunk)
            if progress is not None:
                progress(received, total)
    return digest.hexdigest()


def _refuse_plain_http(request: httpx.Request) -> None:
    if request.url.scheme != "https" and not (request.url.scheme == "http" and _is_this_machine(request.url.host)):
        raise DownloadFailed(f"Packs are fetched over https only, not from {request.url.scheme}://{request.url.host}")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def public_address(url: str) -> str:
    """The address without the user name, password and query that it may hold.

    Raises:
        DownloadFailed: it is no address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise DownloadFailed("What should be an archive's address is none") from error
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
