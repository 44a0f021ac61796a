"""Pictures out of requests: multipart, raw bytes, or base64 in JSON. Bytes only; the pool decodes them."""

import base64
import string
from dataclasses import dataclass
from typing import Any, Final

from flask import Request, json
from werkzeug.datastructures import FileStorage

from app.errors import EmptyUpload, InvalidRequest, UploadTooLarge

# Base64 adds a third, multipart and JSON a little; the exact check is on the picture itself.
_BODY_EXTRA_BYTES = 65_536
# A picture in base64 has none of the characters that make JSON of many parts, and its parameters need few. A body of millions
# is parsed into a hundred times its length.
_STRUCTURE: Final = (b"[", b"{", b",")
_MAX_STRUCTURE: Final = 300
_BLANKS: Final = string.whitespace.encode()
# Names under which clients send files.
FILE_FIELDS: Final = ("file", "files", "file[]", "files[]", "image", "photo")
# A form that is no picture may have as much structure as a person's metadata.
_MAX_FORM_STRUCTURE: Final = 20_000


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


@dataclass(frozen=True, slots=True)
class Form:
    """Parameters, and the pictures that came with them, if any did. `parameters` is None where there are none to be read."""

    parameters: Any
    uploads: list[Upload]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures to compare, each named as the client's field or key is, and the parameters that came with them."""

    first: Upload
    second: Upload
    parameters: dict[str, Any]


def allow_one_picture(request: Request, *, max_bytes: int) -> None:
    """Let the body be as long as one picture with its parameters may be; to be said before it is read."""
    request.max_content_length = max_bytes * 4 // 3 + _BODY_EXTRA_BYTES


def parse_probe(request: Request, query: dict[str, Any], *, max_bytes: int) -> Probe:
    """Read one picture and its parameters, the body's winning over the query's.

    Raises:
        EmptyUpload: there is no picture.
        UploadTooLarge: the picture is longer than `max_bytes`.
        InvalidRequest: several pictures, JSON that is none, or base64 that is none.
    """
    allow_one_picture(request, max_bytes=max_bytes)
    if request.mimetype == "application/json":
        body = _json_object(request)
        image = _from_base64(body.pop("image", None), "image", max_bytes)
        return Probe(image, query | body)
    if request.mimetype == "multipart/form-data":
        uploads = parse_uploads(request, max_bytes=max_bytes, max_files=1)
        return Probe(uploads[0].data, query | request.form.to_dict())
    return Probe(_checked(request.get_data(cache=False), max_bytes), query)


def parse_pair(request: Request, query: dict[str, Any], *, max_bytes: int) -> Pair:
    """Read two pictures, the multipart fields `file1` and `file2` or the JSON keys `image1` and `image2`, and parameters.

    Raises:
        EmptyUpload, UploadTooLarge, InvalidRequest: as `parse_probe`; the message names the picture.
    """
    request.max_content_length = 2 * (max_bytes * 4 // 3) + _BODY_EXTRA_BYTES
    if request.mimetype == "application/json":
        body = _json_object(request)
        first, second = (Upload(key, _from_base64(body.pop(key, None), key, max_bytes)) for key in ("image1", "image2"))
        return Pair(first, second, query | body)
    first, second = (_only_file(request, field, max_bytes) for field in ("file1", "file2"))
    return Pair(first, second, query | request.form.to_dict())


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
    files: list[FileStorage] = [file for field in FILE_FIELDS for file in request.files.getlist(field)]
    if not files:
        raise EmptyUpload("Send the picture as the multipart field 'file'.")
    if len(files) > max_files:
        wanted = "one picture is" if max_files == 1 else f"{max_files} pictures are"
        raise InvalidRequest(f"{len(files)} files were sent; at most {wanted} accepted.")
    uploads = [Upload(file.filename or "file", _taken(file, max_bytes + 1)) for file in files]
    if len(uploads) == 1:
        _checked(uploads[0].data, max_bytes)
    return uploads


def parse_form(request: Request, *, max_bytes: int, max_files: int) -> Form:
    """Read a form: JSON, with one picture in base64 under the key `photo`, or multipart, with several files; or without any.

    In multipart, `metadata` is JSON text, and what is empty is not given.

    Raises:
        UploadTooLarge, EmptyUpload, InvalidRequest: as `parse_uploads`, and of base64 that is none.
    """
    if request.mimetype == "multipart/form-data":
        given = {name: value for name, value in request.form.to_dict().items() if value or name == "label"}
        if "metadata" in given:
            given["metadata"] = _json_or(given["metadata"], given["metadata"])
        has_files = any(request.files.getlist(field) for field in FILE_FIELDS)
        return Form(given, parse_uploads(request, max_bytes=max_bytes, max_files=max_files) if has_files else [])
    if not request.is_json:
        return Form(None, [])
    text = request.get_data(cache=False)
    if sum(map(text.count, _STRUCTURE)) > _MAX_FORM_STRUCTURE:
        raise InvalidRequest(f"The body has more than {_MAX_FORM_STRUCTURE} brackets and commas.")
    body = _json_or(text, None)
    if not isinstance(body, dict) or body.get("photo") is None:
        return Form(_without_photo(body), [])
    return Form(_without_photo(body), [Upload("photo", _from_base64(body["photo"], "photo", max_bytes))])


def _json_or(text: str | bytes, otherwise: object) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def _without_photo(body: Any) -> Any:
    return {key: value for key, value in body.items() if key != "photo"} if isinstance(body, dict) else body


def is_longer_than_one(request: Request, *, max_bytes: int) -> bool:
    """Whether the body, which has not been read, is or may be longer than one picture, of `max_bytes` at most."""
    return request.content_length is None or request.content_length > max_bytes + _BODY_EXTRA_BYTES


def _json_object(request: Request) -> dict[str, Any]:
    text = request.get_data(cache=False)
    if sum(map(text.count, _STRUCTURE)) > _MAX_STRUCTURE:
        raise InvalidRequest(f"The body has more than {_MAX_STRUCTURE} brackets and commas; a picture needs none.")
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object.")
    return body


def _from_base64(text: object, key: str, max_bytes: int) -> bytes:
    if not isinstance(text, str):
        raise EmptyUpload(f"Send the picture as base64 text under the key '{key}'.")
    what = f"The picture under '{key}'"
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # Of bytes, not of words: a list of the pieces between a million line breaks takes far more than the text.
        letters = text.encode("ascii").translate(None, _BLANKS)
        if len(letters) > 4 * -(-max_bytes // 3):
            raise UploadTooLarge(f"{what} is longer than {max_bytes} bytes.")
        image = base64.b64decode(letters, validate=True)
    except ValueError:  # binascii.Error is one
        raise InvalidRequest(f"The value of '{key}' is not base64.") from None
    return _checked(image, max_bytes, what)


def _only_file(request: Request, field: str, max_bytes: int) -> Upload:
    files = request.files.getlist(field)
    if not files:
        raise EmptyUpload(f"Send two pictures, as the multipart fields 'file1' and 'file2'; '{field}' is missing.")
    if len(files) > 1:
        raise InvalidRequest(f"{len(files)} files were sent as '{field}'; one is accepted.")
    return Upload(field, _checked(_taken(files[0], max_bytes + 1), max_bytes, f"The picture '{field}'"))


def _taken(file: FileStorage, most_bytes: int) -> bytes:
    """What the file holds, which the request then holds no longer."""
    try:
        return file.stream.read(most_bytes)
    finally:
        file.close()


def _checked(data: bytes, max_bytes: int, what: str = "The picture") -> bytes:
    if not data:
        raise EmptyUpload(f"{what} is missing or empty.")
    if len(data) > max_bytes:
        raise UploadTooLarge(f"{what} is longer than {max_bytes} bytes.")
    return data
