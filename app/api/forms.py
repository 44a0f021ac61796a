"""Forms out of requests: multipart/form-data by `multipart`, in a tenth of the time that Werkzeug's parser takes."""

from collections.abc import Generator
from contextlib import ExitStack
from io import BytesIO
from typing import IO, Any, Final

from flask import Request
from multipart import MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

_CHUNK_BYTES: Final = 64 * 1024
# As Werkzeug's.
_CHARSETS: Final = frozenset({"ascii", "us-ascii", "utf-8", "iso-8859-1"})
_Pair = tuple[str, str] | tuple[str, FileStorage]


class FormParser(FormDataParser):
    """Werkzeug's, but for multipart."""

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]:
        """As Werkzeug's: what cannot be read, or breaks off, is a form without anything in it.

        Raises:
            RequestEntityTooLarge: more parts, longer fields, or longer headers of parts than are read.
        """
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        fields: list[tuple[str, str]] = []
        with ExitStack() as unfinished:  # what a form that cannot be read leaves is closed
            files: list[tuple[str, FileStorage]] = []
            boundary = (options or {}).get("boundary", "")
            try:
                with PushMultipartParser(boundary.encode("ascii"), **self._limits()) as parser:
                    for name, value in self._pairs(stream, parser, content_length, unfinished):
                        if isinstance(value, FileStorage):
                            files.append((name, value))
                        else:
                            fields.append((name, value))
            except ParserLimitReached:
                raise RequestEntityTooLarge from None
            except ValueError:  # of the parser, or of a header with a line break in it
                return stream, self.cls(), self.cls()
            unfinished.pop_all()
        return stream, self.cls(fields), self.cls(files)

    def _limits(self) -> dict[str, int]:
        return {} if self.max_form_parts is None else {"max_segment_count": self.max_form_parts}

    def _pairs(
        self, stream: IO[bytes], parser: PushMultipartParser, content_length: int | None, opened: ExitStack
    ) -> Generator[_Pair]:
        """The parts in turn: fields with their text, files in streams of the factory's, which are `opened` as well."""
        part: MultipartSegment | None = None
        filename: str | None = None
        content: IO[bytes] = BytesIO()
        while chunk := stream.read(_CHUNK_BYTES):
            for event in parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    part, filename = event, _filename(event)
                    content = BytesIO()
                    if filename is not None:
                        content = self._file(part, filename, content_length)
                        opened.callback(content.close)
                elif event is not None:
                    assert part is not None
                    if filename is None and self._is_too_long(part):
                        raise RequestEntityTooLarge
                    content.write(event)
                else:  # the part is over
                    assert part is not None
                    content.seek(0)
                    if filename is None:
                        yield part.name, content.read().decode(_charset(part), errors="replace")
                    else:
                        yield part.name, FileStorage(content, filename, part.name, headers=Headers(part.headerlist))

    def _is_too_long(self, field: MultipartSegment) -> bool:
        return self.max_form_memory_size is not None and field.bytes_received > self.max_form_memory_size

    def _file(self, part: MultipartSegment, filename: str, content_length: int | None) -> IO[bytes]:
        return self.stream_factory(
            total_content_length=content_length, filename=filename, content_type=part.content_type, content_length=0
        )


def _charset(part: MultipartSegment) -> str:
    """Of a field: what its client says, where it is one that some clients still send."""
    given = (part.charset or "").lower()
    return given if given in _CHARSETS else "utf-8"


def _filename(part: MultipartSegment) -> str | None:
    """As RFC 7578 has it, or, as older clients send what is not ASCII, as RFC 5987 has it; None of a field."""
    name: str | None = part.filename
    disposition: str = part.header("Content-Disposition", "")
    if name is None and "filename*" in disposition.lower():
        name = parse_options_header(disposition)[1].get("filename")
    return name


class FormRequest(Request):
    """Flask's, with forms read as above."""

    form_data_parser_class: type[Any] = FormParser
