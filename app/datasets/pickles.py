"""Reads the rows of a pickled dataset without unpickling it: nothing in here can call what a file names.

The machine below knows lists, tuples, dicts, texts and numbers, and hands the outermost list's items out as they come. NumPy's
arrays, where they are allowed, are not built by NumPy either: their description is compared with the only one that is known.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from app.datasets.labels import FolderLayout
from app.datasets.opcodes import FLOATS, GET, GLOBAL, PUT, VALUE, Token, Tokens
from app.errors import InvalidDataset, UnsafeDataset
from app.vision.faces import Float32Array

# A dataset has three: the list of rows, a row, its vector; NumPy's description of an array adds two.
_MAX_DEPTH: Final = 8
_MAX_STACK: Final = 65_536
_FLOAT_TYPES: Final = ("f8", "f4", "f2")

_ARRAY, _DTYPE, _RECONSTRUCT = "array", "dtype", "reconstruct"
_GLOBALS: Final = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


@dataclass(frozen=True, slots=True)
class _Global:
    """One of the three names, of which nothing but the name is here."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """NumPy's number format: `f4` and the like, and its byte order once it is known."""

    code: str
    order: str = "="


@dataclass(slots=True, eq=False)
class PickledArray:
    """A vector that was pickled as a NumPy array: float32, (D,); None while it is being described.

    `exact` is the array in its own type and shape, where that was asked for.
    """

    values: Float32Array | None = None
    exact: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look over a pickle tells.

    Attributes:
        recalled: the numbers of the values that are used again later.
        layout: how its pictures lie in folders.
    """

    recalled: Container[int]
    layout: FolderLayout


def survey(file: BinaryIO, size: int, *, allow_numpy: bool) -> Survey:
    """Look at every instruction of a pickle before any of its rows is read.

    Raises:
        UnsafeDataset, InvalidDataset: as `Tokens`.
    """
    recalled: set[int] = set()
    layout = FolderLayout()
    numbered = counted = False
    try:
        for kind, argument in Tokens(file, size, allow_numpy=allow_numpy):
            if kind is GET:
                recalled.add(argument)
            elif kind is PUT:
                counted |= argument is None
                numbered |= argument is not None
            elif kind is VALUE and isinstance(argument, str):
                layout.see(argument)
    except InvalidDataset as error:
        if not layout.pictures:
            raise
        # A row begins with its picture; a path that is recalled instead of repeated is not counted.
        raise InvalidDataset(f"{error} It lies in row {layout.pictures} or near it.") from error
    if numbered and counted:
        raise InvalidDataset("The pickle mixes two ways of numbering its values, which no version of Python does.")
    return Survey(recalled, layout)


def pickled_rows(
    file: BinaryIO, size: int, recalled: Container[int], *, allow_numpy: bool, exact: bool = False
) -> Iterator[Any]:
    """The items of the pickled list.

    Args:
        file: at its start.
        size: its length in bytes.
        recalled: `Survey.recalled`; all other values are forgotten once they are handed out.
        allow_numpy: vectors may be NumPy arrays.
        exact: numbers are float64 instead of float32, as in the file, for writing them again.

    Yields:
        One row, made of dict, list, tuple, str, int, bool, None, `PickledArray`, and float32 arrays of (n,), each of which
        stands for n numbers. Nothing is known of its shape.

    Raises:
        UnsafeDataset, InvalidDataset: as `Tokens`; a name other than NumPy's three; no list; instructions without meaning.
    """
    machine = _Machine(recalled, exact=exact)
    for token in Tokens(file, size, allow_numpy=allow_numpy, exact=exact):
        machine.run(token)
        if machine.rows:
            yield from machine.rows
            machine.rows.clear()
    machine.check_end()


class _Machine:
    """The pickle machine, as far as plain data needs it. Source: the comments of the standard library's `pickletools`."""

    def __init__(self, recalled: Container[int], *, exact: bool) -> None:
        self._exact = exact
        self.rows: list[Any] = []
        self._recalled = recalled
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._remembered = 0
        self._actions: dict[str, Callable[[Any], None]] = {
            VALUE: self._push,
            FLOATS: self._push,
            PUT: self._put,
            GET: self._get,
            GLOBAL: self._global,
            "STACK_GLOBAL": lambda _: self._global(self._pop(2)),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "MARK": self._mark,
            "STOP": lambda _: None,
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "EMPTY_DICT": lambda _: self._push({}),
            "TUPLE": lambda _: self._push(tuple(spread(self._pop_mark()))),
            "TUPLE1": lambda _: self._push(tuple(self._pop(1))),
            "TUPLE2": lambda _: self._push(tuple(self._pop(2))),
            "TUPLE3": lambda _: self._push(tuple(self._pop(3))),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._pop_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(spread(self._pop_mark())),
        }

    def run(self, token: Token) -> None:
        """Do what one instruction says; finished rows are in `rows` then."""
        kind, argument = token
        self._actions[kind](argument)
        if not self._stack or not isinstance(self._stack[0], list):
            raise InvalidDataset("The pickle is no list of rows.")

    def check_end(self) -> None:
        """
        Raises:
            InvalidDataset: something is left unfinished.
        """
        if len(self._stack) != 1 or self._marks:
            raise InvalidDataset("The pickle is damaged: it ends in the middle of a row.")

    def _push(self, value: Any) -> None:
        if len(self._stack) >= _MAX_STACK:
            raise InvalidDataset("The pickle puts more values side by side than any dataset.")
        self._stack.append(value)

    def _floor(self) -> int:
        """Where the values of the innermost unfinished list, tuple or dict begin; what is below is not theirs."""
        return self._marks[-1] if self._marks else 0

    def _pop(self, count: int) -> list[Any]:
        values: list[Any] = []
        while len(values) < count:
            if len(self._stack) <= self._floor():
                raise _damaged()
            value = self._stack.pop()
            if isinstance(value, np.ndarray):
                self._stack.extend(value.tolist())
            else:
                values.append(value)
        values.reverse()
        return values

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise _damaged()
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _mark(self, _: None) -> None:
        if len(self._marks) >= _MAX_DEPTH:
            raise InvalidDataset("The pickle nests deeper than any dataset.")
        self._marks.append(len(self._stack))

    def _top(self) -> Any:
        if len(self._stack) <= self._floor():
            raise _damaged()
        return self._stack[-1]

    def _put(self, index: int | None) -> None:
        value = self._top()
        if isinstance(value, np.ndarray):  # one of several numbers, which no pickle remembers
            raise _damaged()
        number = self._remembered if index is None else index
        self._remembered += 1
        if number in self._recalled:
            self._memo[number] = value

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise _damaged()
        self._push(self._memo[index])

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise _damaged()
        if target is self._stack[0]:
            self.rows.extend(values)
        elif len(target) + len(values) > _MAX_STACK:
            raise InvalidDataset("The pickle holds a longer list than any dataset.")
        else:
            target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise _damaged()
        target.update(zip(values[::2], values[1::2], strict=True))

    def _global(self, name: Any) -> None:
        known = _GLOBALS.get(tuple(name)) if all(isinstance(part, str) for part in name) else None
        if known is None:
            raise UnsafeDataset("The pickle names something other than a NumPy array.")
        self._push(_Global(known))

    def _reduce(self, _: None) -> None:
        function, arguments = self._pop(2)
        match function, arguments:
            case _Global(name="reconstruct"), (_Global(name="array"), (0,), b"b"):
                self._push(PickledArray())
            case _Global(name="dtype"), (str(code), _, _) if code in _FLOAT_TYPES:
                self._push(_Dtype(code))
            case _:
                raise UnsafeDataset(
                    "The pickle calls something with other arguments than a NumPy array of numbers has."
                )

    def _build(self, _: None) -> None:
        state = self._pop(1)[0]
        match self._top(), state:
            case _Dtype() as dtype, (3, "<" | ">" | "=" as order, None, None, None, -1, -1, 0):
                dtype.order = order
            case PickledArray(values=None) as array, (1, shape, _Dtype() as dtype, False | True, bytes(data)):
                array.values = _numbers(shape, dtype, data)
                if self._exact:
                    array.exact = np.frombuffer(data, np.dtype(dtype.order + dtype.code)).reshape(shape)
            case _:
                raise UnsafeDataset("The pickle describes something other than a NumPy array of numbers.")


def _numbers(shape: Any, dtype: _Dtype, data: bytes) -> Float32Array:
    match shape:
        case (int(length),) | (1, int(length)):
            numbers = np.frombuffer(data, np.dtype(dtype.order + dtype.code))
        case _:
            raise InvalidDataset("The pickle holds a NumPy array that is no vector.")
    if len(numbers) != length:
        raise _damaged()
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def spread(values: list[Any]) -> list[Any]:
    """`values`, with numbers that came together each in its own place."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return values
    return [item for value in values for item in (value.tolist() if isinstance(value, np.ndarray) else (value,))]


def _damaged() -> InvalidDataset:
    return InvalidDataset("The pickle is damaged: its instructions make no sense.")
