"""Landlock: the files that a process may open, decided by the process itself and for good.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from evolvent_engineer import kernel

LEAST_ABI = 3
"""Linux 6.2. Before it, a process could truncate files that it was only allowed to read."""
SCOPED_ABI = 6
"""Linux 6.12: signals and abstract sockets end at the sandbox."""
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 0, 1 << 2, 1 << 3, 1 << 1, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE | 1 << 15
_CHANGE_PLAIN = _READ | _WRITE_FILE | _TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 13
"""Read, write, remove and make plain files, folders and links; no devices, sockets or pipes, no execution."""
_SCRATCH = _CHANGE_PLAIN & ~_EXECUTE
_NETWORK = 0b11
_SCOPE = 0b11


def abi() -> int:
    """Ask the kernel for its version of landlock; 0 where there is none."""
    try:
        return kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1), what="landlock")
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str], *, streams: bool = False) -> None:
    """Allow reading and executing below some paths and writing below others, and nothing else.

    TCP (since version 4), unless `streams`, and abstract sockets and signals to processes outside (since 6) are
    refused as well.
    Paths that do not exist are passed over. Needs `no_new_privs`.

    Raises:
        OSError: the kernel refused.
    """
    version = abi()
    handled = (1 << (16 if version >= 5 else 15)) - 1
    network = 0 if streams else _NETWORK
    attributes = struct.pack("=QQQ", handled, network, _SCOPE)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    size = ctypes.c_size_t(len(attributes))
    ruleset = kernel.syscall(_CREATE, ctypes.c_char_p(attributes), size, ctypes.c_uint(0), what="landlock_create")
    try:
        for access, paths in ((_READ, readable), (_SCRATCH, writable)):
            for path in paths:
                _allow(ruleset, path, access)
        kernel.syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0), what="landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = ctypes.c_char_p(struct.pack("=Qi", access, descriptor))
        flags = ctypes.c_uint(0)
        kernel.syscall(_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, flags, what=f"landlock_add {path}")
    finally:
        os.close(descriptor)
