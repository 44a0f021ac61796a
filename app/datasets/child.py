"""Started as a program of its own, in an isolated interpreter: parses the file on its standard input with no rights left.

Whatever the file does to it, there is nothing here to win: no environment, no other open file and none that could be opened, no
right to make one, to start a program or to become somebody else, and an end to memory and time.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4
_NOBODY = 65_534

# Landlock, https://docs.kernel.org/userspace-api/landlock.html: numbers of its calls, and of what it can forbid by its version.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_ASK_VERSION = 1
_LANDLOCK_FILE_RIGHTS = (0, 13, 14, 15, 15, 16)


def main() -> None:
    """Take the order from the command line, read standard input, send frames to standard output."""
    order = json.loads(sys.argv[1])
    # The isolated interpreter does not look for modules beside its script.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from app.datasets.parsing import parse

    give_up_rights(order["memory_bytes"], order["cpu_s"])
    with os.fdopen(0, "rb") as file, os.fdopen(1, "wb") as answers:
        parse(file, answers, allow_numpy=order["allow_numpy"], max_rows=order["max_rows"])


def give_up_rights(memory_bytes: int, cpu_s: int) -> None:
    """From here on this process can read and write what is open, and nothing else. There is no way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    _become_nobody()
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    forbid_files(libc)
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 3,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))


def forbid_files(libc: ctypes.CDLL) -> bool:
    """Have the kernel refuse every path, even to be made or removed, which no limit does. False: it is too old for that."""
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_ASK_VERSION)
    if version < 1:
        return False
    rights = ctypes.c_uint64((1 << _LANDLOCK_FILE_RIGHTS[min(version, len(_LANDLOCK_FILE_RIGHTS) - 1)]) - 1)
    rules = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rights), ctypes.c_size_t(ctypes.sizeof(rights)), 0)
    if rules < 0 or libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(rules)
    return True


def _become_nobody() -> None:
    """Root would be above some of the limits."""
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:  # a container that has no such user: the limits have to do
        pass


if __name__ == "__main__":
    main()
