"""The pickle machine: what it understands it understands as Python does, and the rest it refuses."""

import pickle
import pickletools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.datasets.opcodes import Tokens
from app.datasets.pickles import PickledArray, pickled_rows, survey
from app.errors import InvalidDataset, UnsafeDataset
from tests.datasets import costly
from tests.datasets.making import as_dicts, dump, dump_npz, identities, npz_arrays, numpy_rows, parse_here, vectors

DUMPS = {
    "in C": pickle.dumps,
    "in Python": pickle._dumps,
    "optimised": lambda value, protocol: pickletools.optimize(pickle.dumps(value, protocol)),
}
KNOWN = """PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    LONG1 LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES EMPTY_LIST APPEND APPENDS EMPTY_TUPLE
    TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS"""
FOR_NUMPY = "GLOBAL STACK_GLOBAL REDUCE BUILD"
CALLS = FOR_NUMPY + " INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 PERSID BINPERSID NEXT_BUFFER READONLY_BUFFER"

plain = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(width=32) | st.text(max_size=300)
rows = st.recursive(
    plain,
    lambda values: (
        st.lists(values) | st.lists(values, max_size=4).map(tuple) | st.dictionaries(st.text(max_size=9), values)
    ),
    max_leaves=40,
)


def plainly(value: object) -> object:
    """A row with each number in its place, floats as float32 has them."""
    if isinstance(value, list | tuple):
        items = [
            item for part in value for item in (part.tolist() if isinstance(part, np.ndarray) else [plainly(part)])
        ]
        return type(value)(items)
    if isinstance(value, dict):
        return {key: plainly(item) for key, item in value.items()}
    return value


@settings(max_examples=150, deadline=None)
@given(value=st.lists(rows, max_size=6), protocol=st.sampled_from([2, 3, 4, 5]), how=st.sampled_from(sorted(DUMPS)))
def test_plain_data_is_read_as_python_reads_it(tmp_path_factory, value, protocol, how):
    data = DUMPS[how]([value, value], protocol)  # the second is recalled
    path = tmp_path_factory.getbasetemp() / "plain"
    path.write_bytes(data)
    with path.open("rb") as file:
        try:
            seen = survey(file, len(data), allow_numpy=False)
            file.seek(0)
            read = list(pickled_rows(file, len(data), seen.recalled, allow_numpy=False))
        except InvalidDataset as error:
            assert "deeper" in str(error)  # noqa: PT017 - the one thing that datasets are not
            return
    assert repr([plainly(row) for row in read]) == repr(pickle.loads(data))


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("allow_numpy", [False, True])
def test_only_instructions_for_data_are_known(tmp_path, opcode, allow_numpy):
    path = tmp_path / "one"
    path.write_bytes(opcode.code.encode("latin-1") + bytes(20))
    known = {*KNOWN.split(), *(FOR_NUMPY.split() if allow_numpy else ())}
    with path.open("rb") as file, pytest.raises((InvalidDataset, UnsafeDataset)) as caught:
        list(Tokens(file, 21, allow_numpy=allow_numpy))
    # An unknown one is refused under its name, at once; a known one for what comes after.
    assert (f"({opcode.name} at byte 0)" in str(caught.value)) == (opcode.name not in known)
    assert (caught.type is UnsafeDataset) == (opcode.name in set(CALLS.split()) - known)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_numpy_array_is_described_and_never_built(tmp_path, protocol):
    path = dump(tmp_path, numpy_rows(3), protocol=protocol)
    with path.open("rb") as file:
        seen = survey(file, path.stat().st_size, allow_numpy=True)
        file.seek(0)
        found = list(pickled_rows(file, path.stat().st_size, seen.recalled, allow_numpy=True))
    assert all(isinstance(vector, PickledArray) for _, vector in found)
    assert np.array_equal([vector.values for _, vector in found], vectors(3))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((), np.float32),
        np.zeros(3, np.int64),
        np.zeros(3, np.complex64),
        np.array([{"a": 1}], dtype=object),
        np.array(["a"]),
        np.zeros(3, dtype=[("a", "f4")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.ma.zeros(3, np.float32),
        np.float32(1),
    ],
    ids=repr,
)
def test_only_vectors_of_numbers_are_arrays(tmp_path, array):
    path = dump(tmp_path, [["Ana/1.jpg", array]], protocol=3)
    assert parse_here(path, allow_numpy=True)["error"] in ("unsafe_dataset", "invalid_dataset")


@pytest.mark.parametrize("data", [costly.HONEST, pickle.dumps(numpy_rows(2), 3), pickle.dumps(numpy_rows(2), 4)])
def test_a_pickle_cut_at_any_instruction_is_refused(tmp_path, data):
    path = tmp_path / "cut"
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    # The numbers of a vector are one like the other.
    for place in places if len(places) < 300 else [*places[:60], *places[60:-60:37], *places[-60:]]:
        for cut in {place, place + 1} - {0, len(data)}:
            path.write_bytes(data[:cut])
            assert parse_here(path, allow_numpy=True)["error"] == "invalid_dataset"


@pytest.mark.parametrize("row", [1, 3, 5])
def test_a_number_of_absurd_size_is_refused_with_its_row(tmp_path, row):
    found = as_dicts(identities(5), vectors(5, 8))
    found[row - 1]["target_x"] = 2**100
    told = parse_here(dump(tmp_path, found), allow_numpy=False)
    assert told["error"] == "invalid_dataset"
    assert "a value of 13 bytes" in told["message"]
    assert told["message"].endswith(f"It lies in row {row} or near it.")


@pytest.mark.parametrize("form", ["pickle", "numpy", "npz"])
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path, form):
    """Whatever the bytes are, nothing is raised but a refusal."""
    if form == "npz":
        path = dump_npz(tmp_path, npz_arrays(2))
    else:
        path = dump(tmp_path, numpy_rows(2) if form == "numpy" else as_dicts(identities(2), vectors(2, 8)), protocol=3)
    data, chance = path.read_bytes(), random.Random(11)
    ends = [*range(200), *range(-200, 0)]  # where the structure is
    for _ in range(800):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.choice(ends)
            changed[at] = chance.choice([chance.randrange(256), *b"().]}eastRbc\x80\x8c\x93\x94\x95"])
        path.write_bytes(changed)
        assert {"end", "error"} & parse_here(path, allow_numpy=True).keys()
