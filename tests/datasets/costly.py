"""Files that are no dataset, or cost far more to read than their size."""

import bz2
import functools
import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.datasets.making import as_dicts, identities, npz_arrays, vectors
from tests.datasets.payloads import P2, P4, text

FIVE_GB = 5 * 1024**3
HONEST = pickle.dumps(as_dicts(identities(3), vectors(3)), 4)


@functools.cache
def costly() -> dict[str, bytes]:
    """Contents by name."""
    return {**_announcing(), **_growing(), **_no_datasets(), **_damaged(), **_archives()}


def _announcing() -> dict[str, bytes]:
    """A few bytes that make an unpickler ask for gigabytes."""
    many = struct.pack("<Q", FIVE_GB)
    return {
        "a memo of 2 GB in nine bytes": P2 + b"Nr\xff\xff\xff\x0f.",
        "a memo of 64 GB": P2 + b"](Nr\xff\xff\xff\xffe.",
        "a value from far beyond the memo": P2 + b"](j\xff\xff\xff\xffe.",
        "5 GB of text": P4 + b"](\x8d" + many + b"x" * 100,
        "5 GB of bytes": P4 + b"](\x8e" + many + b"x" * 100,
        "5 GB of a bytearray": b"\x80\x05](\x96" + many + b"x" * 100,
        "4 GB of short text": P4 + b"](X\xff\xff\xff\xff" + b"x" * 100,
        "a frame of 5 GB": P4 + b"\x95" + many + b"].",
        "a frame of 16 EB": P4 + b"\x95" + b"\xff" * 8 + b"].",
        "an integer of 2 GB": P2 + b"](\x8b\xff\xff\xff\x7f" + b"\x01" * 100,
        "an integer of negative length": P2 + b"](\x8b\xff\xff\xff\xff" + b"\x01" * 100,
        "a long integer": P2 + b"](\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b"e.",
        "a Python 2 text of negative length": P2 + b"](T\xff\xff\xff\xffe.",
    }


def _growing() -> dict[str, bytes]:
    """Small pickles whose values are large, deep, or slow to make."""
    laughs = b"](" + b"N" * 10 + b"eq\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(40))
    doubled = b"]N2a" + b"(2222222222e" * 1000
    return {
        "a billion laughs": P2 + b"](" + laughs + b"e.",
        "a billion laughs by dup": P2 + doubled + b".",
        "a list of itself": P2 + b"]q\x00(h\x00h\x00e.",
        "a row of itself": P2 + b"](]q\x00(h\x00h\x00ee.",
        "lists in lists": P2 + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "tuples in tuples": P2 + b"])" + b"\x85" * 10**6 + b"a.",
        "dicts in dicts": P2 + b"](" + (b"}" + text("a")) * 10**5 + b"N" + b"s" * 10**5 + b"e.",
        "marks": P2 + b"](" + b"(" * 10**6 + b".",
        "nothing, five million times": P2 + b"](" + b"N" * 5 * 10**6 + b"e.",
        "a list of a million nothings": P2 + b"](](" + (b"N" * 1000 + b"e(") * 1000 + b"ee.",
        "digits of an integer": b"](L" + b"9" * 10**6 + b"L\ne.",
        "digits of a short integer": b"](I" + b"9" * 10**6 + b"\ne.",
        "digits of a number": b"](F" + b"9" * 10**6 + b"\ne.",
        "a line without end": b"c" + b"x" * 10**6,
        "a set": P4 + b"](\x8f(" + b"K\x01" * 10**5 + b"\x90e.",
        "a text of many escapes": b"](V" + b"\\u0041" * 10**5 + b"\ne.",
    }


def _no_datasets() -> dict[str, bytes]:
    return {
        "empty": b"",
        "a stop": b".",
        "a protocol": P4,
        "a protocol of the future": b"\x80\x09].",
        "a text file": b"identity,embedding\nAna/1.jpg,0.5\n",
        "a page": b"<!doctype html><title>404</title>",
        "a picture": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "zeros": bytes(10_000),
        "random bytes": np.random.default_rng(3).bytes(10_000),
        "gzip": gzip.compress(HONEST),
        "bzip2": bz2.compress(HONEST),
        "Parquet": b"PAR1" + bytes(100),
        "a dict": pickle.dumps({"identity": ["a"], "embedding": [[0.5]]}, 4),
        "a number": pickle.dumps(7, 4),
        "a text": pickle.dumps("Ana", 4),
        "nothing": pickle.dumps(None, 4),
        "a list of texts": pickle.dumps(["a", "b"], 4),
        "a list of numbers": pickle.dumps([0.5] * 5000, 4),
        "a bytearray": pickle.dumps([bytearray(b"a")], 5),
        "a persistent id": P2 + b"](Pid\ne.",
        "a binary persistent id": P2 + b"](NQe.",
        "a buffer outside the pickle": b"\x80\x05](\x97\x98e.",
    }


def _damaged() -> dict[str, bytes]:
    return {
        "half of a dataset": HONEST[: len(HONEST) // 2],
        "a dataset without its last byte": HONEST[:-1],
        "a dataset and a byte": HONEST + b"\x00",
        "two datasets": HONEST + HONEST,
        "an append to nothing": P2 + b"](Na.",
        "an append to a text": P2 + b"](" + text("a") + b"Nae.",
        "an item without a value": P2 + b"](}(" + text("a") + b"ue.",
        "an item of a list": P2 + b"](](" + text("a") + b"Nuee.",
        "a key that is a list": P2 + b"](}]Nse.",
        "a mark that was never made": P2 + b"]e.",
        "a tuple of less than there is": P2 + b"](K\x01\x87e.",
        "a value that was never remembered": P2 + b"](h\x07e.",
        "something left over": P2 + b"]].",
        "a mark left over": P2 + b"](.",
        "two kinds of numbering": P4 + b"](" + text("a") + b"\x94q\x00h\x00e.",
        "a text that is not UTF-8": P4 + b"](\x8c\x02\xff\xfee.",
    }


def _archives() -> dict[str, bytes]:
    arrays = npz_arrays(4)
    objects = np.array([{"a": 1}], dtype=object)
    column = _npy(arrays["embedding"])
    one = np.ones(4, dtype=bool)
    huge_header = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"{" * 1000
    return {
        "an empty archive": _zip({}),
        "an archive without columns": _zip({"a.npy": _npy(one)}),
        "an archive cut short": _saved(arrays)[:-50],
        "only a directory": _saved(arrays)[-600:],
        "a damaged column": _saved(arrays).replace(column[-64:], bytes(64)),
        "a column of objects": _saved(arrays | {"identity": np.repeat(objects, 4)}),
        "vectors of objects": _saved(arrays | {"embedding": np.repeat(objects, 4).reshape(4, 1)}),
        "a column of records": _saved(arrays | {"target_x": np.zeros(4, dtype=[("a", "i4")])}),
        "columns that differ in length": _saved(arrays | {"has_embedding": one[:3]}),
        "vectors column by column": _saved(arrays | {"embedding": np.asfortranarray(arrays["embedding"])}),
        "vectors of one dimension": _saved(arrays | {"embedding": arrays["embedding"][0]}),
        "texts in a row of flags": _saved(arrays | {"has_embedding": arrays["identity"]}),
        "texts of 4 GB": _replaced("identity", _header("<U1000000000", (4,))),
        "no text's characters": _saved(arrays | {"identity": np.full((4, 9), 2**31, np.uint32).view("<U9")[:, 0]}),
        "10^15 rows": _replaced("embedding", _header("<f8", (10**15, 512))),
        "10^30 rows": _replaced("embedding", _header("<f8", (10**30, 0))),
        "-1 rows": _replaced("embedding", _header("<f8", (-1, 512))),
        "rows of nothing without end": _endless(arrays),
        "another version of the format": _replaced("embedding", column[:6] + b"\x02" + column[7:]),
        "a header of 2 GB": _replaced("embedding", huge_header),
        "a header that nests": _replaced("embedding", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535),
        "a header that calls": _replaced("embedding", _header("<f8", "__import__('os').mkdir('x')")),
        "no array": _replaced("embedding", b"hello"),
        "a bomb": _zip({f"{name}.npy": bytes(10**7) for name in arrays}, zipfile.ZIP_DEFLATED),
        "bzip2 in the archive": _zip({f"{name}.npy": bytes(10) for name in arrays}, zipfile.ZIP_BZIP2),
        "an encrypted column": _encrypted(_saved(arrays)),
        "a column twice": _twice(arrays),
        "ten thousand files": _zip({f"{n}.npy": b"" for n in range(10_000)}),
    }


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _header(descr: str, shape: object) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _saved(arrays: dict[str, np.ndarray]) -> bytes:
    return _zip({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def _replaced(column: str, content: bytes) -> bytes:
    return _zip({f"{name}.npy": _npy(array) for name, array in npz_arrays(4).items()} | {f"{column}.npy": content})


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _endless(names: Iterable[str]) -> bytes:
    """A billion rows that take no bytes, as far as the types allow that."""
    shapes = dict.fromkeys(names, "(1000000000,)") | {"embedding": "(1000000000, 0)"}
    types = dict.fromkeys(names, "<U0") | {"embedding": "<f8"}
    return _zip({f"{name}.npy": _header(types[name], shapes[name]) for name in names})


def _encrypted(data: bytes) -> bytes:
    """The flag that says so, in each header."""
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(magic)
        while at >= 0:
            data = data[: at + offset] + bytes([data[at + offset] | 1]) + data[at + offset + 1 :]
            at = data.find(magic, at + 4)
    return data


def _twice(arrays: dict[str, np.ndarray]) -> bytes:
    other = {**arrays, "identitz": arrays["identity"]}
    return _saved(other).replace(b"identitz.npy", b"identity.npy")


def write_sparse(path: Path, head: bytes, size: int = FIVE_GB) -> None:
    """A file of that size, of which only `head` takes room on the disk."""
    path.write_bytes(head)
    os.truncate(path, size)
