"""Splits a pickle into its instructions, holding no more than a few MiB of it.

Only instructions that describe plain data are known. `pickletools.genops` knows all, but takes minutes for the hundred million
numbers of a file of 1 GB: here a run of numbers is one token. `docs/decisions/0005-reading-pickles.md` has the reasons.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np

from app.errors import InvalidDataset, UnsafeDataset

STRING_MAX_BYTES: Final = 64 * 1024
# Vectors of NumPy arrays come as bytes.
BYTES_MAX: Final = 512 * 1024
# Numbers of one token; pickles hand a list its items in portions of 1,000.
RUN_MAX: Final = 1024

_READ_BYTES: Final = 4 * 1024**2
# No instruction is longer: unless the file ends, it lies whole in the buffer.
_LOOK_AHEAD: Final = BYTES_MAX + 16
_INTEGER_MAX_BYTES: Final = 8
_LINE_MAX_BYTES: Final = 200
_BYTE: Final = struct.Struct("B")
# A number with the instruction before it, as they repeat in the file.
_FLOAT_RUN: Final = np.dtype([("opcode", "u1"), ("value", ">f8")])

# What a token is, and its argument: one Python value; float32 numbers; where to remember the topmost value (None: next
# number); which to recall; a module and a name. Every other token is an instruction without argument, under its own name.
VALUE, FLOATS, PUT, GET, GLOBAL = "VALUE", "FLOATS", "PUT", "GET", "GLOBAL"
Token = tuple[str, Any]

_NAMES: Final = {ord(info.code): info.name for info in pickletools.opcodes}
_CONSTANTS: Final = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_INTEGERS: Final = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H"}
_MEMO: Final = {
    pickle.BINPUT: (PUT, "<B"),
    pickle.LONG_BINPUT: (PUT, "<I"),
    pickle.BINGET: (GET, "<B"),
    pickle.LONG_BINGET: (GET, "<I"),
}
_COUNTED: Final[dict[bytes, tuple[str, int, Callable[[bytes], Any]]]] = {
    pickle.LONG1: ("<B", _INTEGER_MAX_BYTES, lambda data: int.from_bytes(data, "little", signed=True)),
    pickle.LONG4: ("<i", _INTEGER_MAX_BYTES, lambda data: int.from_bytes(data, "little", signed=True)),
    pickle.SHORT_BINUNICODE: ("<B", STRING_MAX_BYTES, lambda data: data.decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE: ("<I", STRING_MAX_BYTES, lambda data: data.decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: ("<Q", STRING_MAX_BYTES, lambda data: data.decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: ("<B", BYTES_MAX, bytes),
    pickle.BINBYTES: ("<I", BYTES_MAX, bytes),
}
_BARE: Final = frozenset(
    (
        *(pickle.MARK, pickle.STOP),
        *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    )
)
# How Python's pickles build a NumPy array. Elsewhere they are how code is run.
_NUMPY: Final = frozenset((pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD))
_RUNS_CODE: Final = frozenset(
    (
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.INST, pickle.OBJ),
        *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
        *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    )
)


class Tokens:
    """The instructions of one pickle, in order."""

    def __init__(self, file: BinaryIO, size: int, *, allow_numpy: bool, exact: bool = False) -> None:
        """
        Args:
            file: at its start.
            size: its length in bytes; more is not read.
            allow_numpy: let through what builds NumPy arrays; whether it does nothing else is for `app.datasets.pickles`.
            exact: numbers come as float64, as they are in the file.
        """
        self._file, self._size, self._unread = file, size, size
        self._allow_numpy = allow_numpy
        self._number_type = np.float64 if exact else np.float32
        self._buffer = b""
        self._at = 0
        self._readers: dict[int, Callable[[], Token | None]] = dict(self._make_readers())

    def __iter__(self) -> Iterator[Token]:
        """
        Raises:
            UnsafeDataset: an instruction that runs code.
            InvalidDataset: one that no dataset has; a length beyond the file's; the file ends too early, or goes on.
        """
        readers = self._readers
        while True:
            if self._unread and len(self._buffer) - self._at < _LOOK_AHEAD:
                self._fill()
            try:  # by hand: this is done for every instruction
                opcode = self._buffer[self._at]
            except IndexError:
                raise _truncated() from None
            self._at += 1
            reader = readers.get(opcode)
            if reader is None:
                raise self._refusal(opcode)
            token = reader()
            if token is None:
                continue
            yield token
            if token[0] == "STOP":
                break
        if self._position < self._size:
            raise InvalidDataset("The pickle ends before the file does.")

    @property
    def _position(self) -> int:
        return self._size - self._unread - len(self._buffer) + self._at

    def _fill(self) -> None:
        read = self._file.read(min(_READ_BYTES, self._unread))
        self._unread = self._unread - len(read) if read else 0
        self._buffer = self._buffer[self._at :] + read
        self._at = 0

    def _take(self, count: int) -> bytes:
        data = self._buffer[self._at : self._at + count]
        if len(data) < count:
            raise _truncated()
        self._at += count
        return data

    def _refusal(self, opcode: int) -> InvalidDataset | UnsafeDataset:
        where = f"at byte {self._position - 1}"
        if bytes([opcode]) in _RUNS_CODE:
            return UnsafeDataset(
                f"The pickle asks for code to be run ({_NAMES[opcode]} {where})."
                " If DeepFace before 0.0.51 wrote it, its NumPy arrays have to be allowed."
            )
        if opcode not in _NAMES:
            return InvalidDataset(f"This is no pickle, or a damaged one ({where}).")
        return InvalidDataset(f"The pickle holds what no dataset does ({_NAMES[opcode]} {where}).")

    def _make_readers(self) -> Iterator[tuple[int, Callable[[], Token | None]]]:
        for code, value in _CONSTANTS.items():
            yield code[0], partial(_token, VALUE, value)
        for code, layout in _INTEGERS.items():
            yield code[0], partial(self._integer, struct.Struct(layout))
        for code, (kind, layout) in _MEMO.items():
            yield code[0], partial(self._memo, kind, struct.Struct(layout))
        for code, (layout, most, decode) in _COUNTED.items():
            yield code[0], partial(self._counted, struct.Struct(layout), most, decode)
        for code in _BARE | (_NUMPY if self._allow_numpy else frozenset()):
            yield code[0], partial(_token, _NAMES[code[0]], None)
        if self._allow_numpy:
            yield pickle.GLOBAL[0], self._global
        yield pickle.BINFLOAT[0], self._floats
        yield pickle.MEMOIZE[0], partial(_token, PUT, None)
        yield pickle.PROTO[0], self._protocol
        yield pickle.FRAME[0], self._frame

    def _number(self, fixed: struct.Struct) -> int:
        try:
            value: int = fixed.unpack_from(self._buffer, self._at)[0]
        except struct.error as error:
            raise _truncated() from error
        self._at += fixed.size
        return value

    def _integer(self, fixed: struct.Struct) -> Token:
        return VALUE, self._number(fixed)

    def _memo(self, kind: str, fixed: struct.Struct) -> Token:
        index = self._number(fixed)
        # The standard library would make room for all below it.
        if index >= self._size:
            raise InvalidDataset("The pickle numbers more values than it has bytes.")
        return kind, index

    def _counted(self, count: struct.Struct, most: int, decode: Callable[[bytes], Any]) -> Token:
        length = self._number(count)
        if not 0 <= length <= min(most, self._size - self._position):
            raise InvalidDataset(f"The pickle announces a value of {length} bytes at byte {self._position}.")
        try:
            return VALUE, decode(self._take(length))
        except UnicodeDecodeError as error:
            raise InvalidDataset("The pickle holds a text that is not UTF-8.") from error

    def _floats(self) -> Token:
        start = self._at - 1
        fitting = min(RUN_MAX, (len(self._buffer) - start) // _FLOAT_RUN.itemsize)
        if not fitting:
            raise _truncated()
        numbers = np.frombuffer(self._buffer, _FLOAT_RUN, fitting, start)
        others = numbers["opcode"] != pickle.BINFLOAT[0]
        length = int(others.argmax()) or fitting
        self._at = start + length * _FLOAT_RUN.itemsize
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which is counted where rows are checked
            return FLOATS, numbers["value"][:length].astype(self._number_type)

    def _global(self) -> Token:
        return GLOBAL, (self._line(), self._line())

    def _line(self) -> str:
        end = self._buffer.find(b"\n", self._at, self._at + _LINE_MAX_BYTES)
        if end < 0:
            raise InvalidDataset("The pickle is truncated, or holds an overlong name.")
        return self._take(end + 1 - self._at)[:-1].decode("latin-1")

    def _protocol(self) -> None:
        if self._position != 1 or not 2 <= self._number(_BYTE) <= pickle.HIGHEST_PROTOCOL:
            raise InvalidDataset("The pickle is of an unknown protocol.")

    def _frame(self) -> None:
        length = self._number(struct.Struct("<Q"))
        if length > self._size - self._position:
            raise InvalidDataset(f"The pickle announces {length} bytes more than it has.")


def _token(kind: str, argument: Any) -> Token:
    return kind, argument


def _truncated() -> InvalidDataset:
    return InvalidDataset("The pickle is truncated.")
