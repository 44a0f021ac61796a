"""Pictures out of requests: multipart, raw bytes, or base64 in JSON. Bytes only; the pool decodes them."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from flask import Request
from werkzeug.datastructures import FileStorage

from app.errors import EmptyUpload, InvalidRequest, UploadTooLarge

# Names under which clients send files.
_FILE_FIELDS = ("file", "files", "file[]", "files[]", "image")


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file: the client's name for it, shown back and used for nothing else, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """A picture to search with, and the parameters that came with it."""

    image: bytes
    parameters: dict[str, Any]


def parse_probe(request: Request, query: dict[str, Any], *, max_bytes: int) -> Probe:
    """Read one picture and its parameters, the body's winning over the query's.

    Raises:
        EmptyUpload: there is no picture.
        UploadTooLarge: the picture is longer than `max_bytes`.
        InvalidRequest: several pictures, JSON that is none, or base64 that is none.
    """
    # Base64 adds a third, multipart and JSON a little; the exact check is on the picture itself.
    request.max_content_length = max_bytes * 4 // 3 + 65_536
    if request.mimetype == "application/json":
        return _json_probe(request, query, max_bytes)
    if request.mimetype == "multipart/form-data":
        uploads = parse_uploads(request, max_bytes=max_bytes, max_files=1)
        return Probe(uploads[0].data, query | request.form.to_dict())
    return Probe(_checked(request.get_data(cache=False), max_bytes), query)


def parse_uploads(
    request: Request, *, max_bytes: int, max_files: int, max_request_bytes: int | None = None
) -> list[Upload]:
    """Read the files of a multipart request, or the raw body as one file.

    Files that are empty or too long are kept, cut to one byte over the limit, so that each can be answered on its own.

    Args:
        max_bytes: longest file.
        max_files: most files.
        max_request_bytes: longest request; None keeps the limit that the request has.

    Raises:
        EmptyUpload: there is no file.
        InvalidRequest: more than `max_files`.
        UploadTooLarge: a single file that is too long.
    """
    if max_request_bytes is not None:
        request.max_content_length = max_request_bytes
    if request.mimetype != "multipart/form-data":
        return [Upload("body", _checked(request.get_data(cache=False), max_bytes))]
    files: list[FileStorage] = [file for field in _FILE_FIELDS for file in request.files.getlist(field)]
    if not files:
        raise EmptyUpload("Send the picture as the multipart field 'file'.")
    if len(files) > max_files:
        wanted = "one picture is" if max_files == 1 else f"{max_files} pictures are"
        raise InvalidRequest(f"{len(files)} files were sent; at most {wanted} accepted.")
    uploads = [Upload(file.filename or "file", file.stream.read(max_bytes + 1)) for file in files]
    if len(uploads) == 1:
        _checked(uploads[0].data, max_bytes)
    return uploads


def _json_probe(request: Request, query: dict[str, Any], max_bytes: int) -> Probe:
    body = request.get_json(silent=True, cache=False)
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object.")
    text = body.pop("image", None)
    if not isinstance(text, str):
        raise EmptyUpload("Send the picture as base64 text under the key 'image'.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The value of 'image' is not base64.") from None
    return Probe(_checked(image, max_bytes), query | body)


def _checked(data: bytes, max_bytes: int) -> bytes:
    if not data:
        raise EmptyUpload("The request carries no picture.")
    if len(data) > max_bytes:
        raise UploadTooLarge(f"The picture is longer than {max_bytes} bytes.")
    return data
