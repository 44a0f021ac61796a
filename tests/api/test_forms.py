"""Forms are read as Werkzeug's own parser reads them, but for what no client sends."""

from io import BytesIO

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from app.api.forms import FormParser

BOUNDARY = "--b"
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
# Browsers do not escape the backslash, some clients do: nobody can tell.
NAMES = TEXTS.filter(lambda name: "\\" not in name)
# What parsers of boundaries stumble over.
CONTENTS = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"----b", b"\r\n----b", b"x", b"\x00\xff"]), max_size=12).map(
    b"".join
)


def parser(**limits: int) -> FormParser:
    """As Flask makes it."""
    return FormParser(cls=ImmutableMultiDict, **limits)


def read(reader: FormDataParser, body: bytes, boundary: str = BOUNDARY):
    """Fields, and files with their names and contents."""
    options = {"boundary": boundary}
    _, form, files = reader.parse(BytesIO(body), "multipart/form-data", min(len(body), 1000), options)
    kept = [(name, file.filename, file.read(), file.mimetype) for name, file in files.items(multi=True)]
    for _, file in files.items(multi=True):
        file.close()
    return list(form.items(multi=True)), kept


def part(disposition: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


@given(st.dictionaries(NAMES, TEXTS), st.lists(st.tuples(st.text("abc", min_size=1), CONTENTS), min_size=1))
def test_what_a_client_sends_is_read_alike(fields, files) -> None:
    parts = [(name, (f"{number} Š%22.jpg", content, "image/jpeg")) for number, (name, content) in enumerate(files)]
    request = httpx.Request("POST", "http://facedex", data=fields, files=parts)
    boundary = request.headers["content-type"].partition("boundary=")[2]
    found = read(parser(), request.read(), boundary)
    assert found[0] == list(fields.items())
    assert sorted((name, content) for name, _, content, _ in found[1]) == sorted(files)
    assert found == read(FormDataParser(), request.read(), boundary)


@given(st.binary() | CONTENTS | st.lists(CONTENTS).map(lambda some: b"".join(part('name="f"', one) for one in some)))
def test_anything_else_is_a_form_too_if_an_empty_one(body: bytes) -> None:
    fields, files = read(parser(), body)
    assert files == []
    assert fields == [] or END[:-2] in body


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('name="file"; filename="a b.jpg"', "a b.jpg"),
        ('name="file"; filename="Škoda.jpg"', "Škoda.jpg"),
        ("name=\"file\"; filename*=utf-8''%C5%A0koda.jpg", "Škoda.jpg"),
        ('filename="x.jpg"; name="file"', "x.jpg"),
        ("name=file; filename=plain.jpg", "plain.jpg"),
        ('name="file"; filename=""', ""),
    ],
)
def test_names_of_files_as_clients_write_them(disposition: str, filename: str) -> None:
    fields, files = read(parser(), part(disposition, b"picture") + END)
    assert fields == []
    assert [(name, given, content) for name, given, content, _ in files] == [("file", filename, b"picture")]


@pytest.mark.parametrize(
    "body",
    [b"", b"no form", part('name="a"', b"1"), part('name="a"', b"1") + b"--" + BOUNDARY.encode(), END[:-4]],
    ids=["nothing", "no form", "breaks off", "breaks off in the last boundary", "no boundary at all"],
)
def test_a_form_that_breaks_off_is_empty(body: bytes) -> None:
    assert read(parser(), body) == ([], [])


@pytest.mark.parametrize(
    "head", ['name="a"; filename="x\ny"', 'name="a"; filename="x"\r\nX-A: a\nb', 'name="a\rb"; filename="x"']
)
def test_a_line_break_in_a_header_reads_nothing_or_a_name(head: str) -> None:
    fields, files = read(parser(), part(head, b"1") + END)
    assert fields == []
    assert files == [] or files[0][2] == b"1"


@pytest.mark.parametrize("charset", ["iso-8859-1", "ISO-8859-1"])
def test_a_field_is_read_in_the_charset_that_its_client_says(charset: str) -> None:
    head = f'name="a"\r\nContent-Type: text/plain; charset={charset}'
    assert read(parser(), part(head, "René".encode("iso-8859-1")) + END)[0] == [("a", "René")]
    assert read(parser(), part('name="a"', "René".encode()) + END)[0] == [("a", "René")]
    odd = part('name="a"\r\nContent-Type: text/plain; charset=utf-7', b"+AGE-") + END
    assert read(parser(), odd)[0] == [("a", "+AGE-")]


@pytest.mark.parametrize("boundary", ["", "Š", "a\nb"])
def test_a_boundary_that_is_none_reads_nothing(boundary: str) -> None:
    assert read(parser(), part('name="a"', b"1") + END, boundary) == ([], [])


def test_what_is_too_much_is_refused() -> None:
    many = b"".join(part(f'name="f{number}"', b"1") for number in range(4)) + END
    assert len(read(parser(max_form_parts=4), many)[0]) == 4
    with pytest.raises(RequestEntityTooLarge):
        read(parser(max_form_parts=3), many)
    long = part('name="a"', b"1" * 100) + END
    assert read(parser(max_form_memory_size=100), long)[0] == [("a", "1" * 100)]
    with pytest.raises(RequestEntityTooLarge):
        read(parser(max_form_memory_size=99), long)
    with pytest.raises(RequestEntityTooLarge):
        read(parser(), part(f'name="{"a" * 10_000}"', b"1") + END)


@pytest.mark.parametrize("rest", [b"", part("name='a'", b"1"), b"--" + BOUNDARY.encode() + b"x"])
def test_what_was_read_of_a_form_that_breaks_off_is_closed(rest: bytes) -> None:
    opened = []

    def factory(**_: object) -> BytesIO:
        opened.append(BytesIO())
        return opened[-1]

    reader = FormParser(stream_factory=factory, cls=ImmutableMultiDict)
    whole = part('name="file"; filename="a"', b"picture")
    assert read(reader, whole + part('name="file"; filename="b"', b"picture") + rest) == ([], [])
    assert [file.closed for file in opened] == [True, True]


def test_a_file_is_no_field_however_long() -> None:
    content = b"\r\n--" * 50_000
    assert read(parser(max_form_memory_size=10), part('name="file"; filename="a"', content) + END)[1][0][2] == content
