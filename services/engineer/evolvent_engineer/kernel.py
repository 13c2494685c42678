"""Linux system calls that Python does not wrap; each raises OSError."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000


def machine() -> str:
    return os.uname().machine


def checked(result: int, what: str) -> int:
    """Raise what `errno` says if a call failed.

    Raises:
        OSError: it did.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    return checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def prctl(option: int, value: int) -> None:
    checked(_libc.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0))), f"prctl {option}")


def unshare(flags: int) -> None:
    checked(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(descriptor: int, flags: int) -> None:
    checked(_libc.setns(descriptor, flags), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None)
    checked(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def unmount_lazily(target: str) -> None:
    checked(_libc.umount2(target.encode(), 2), f"umount {target}")


def protect(target: str, attributes: int) -> None:
    """Set attributes of a mount and of everything mounted below it (Linux 5.12)."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    path, flags = ctypes.c_char_p(target.encode()), ctypes.c_uint(_AT_RECURSIVE)
    size = ctypes.c_size_t(32)
    syscall(_MOUNT_SETATTR, ctypes.c_int(_AT_FDCWD), path, flags, wanted, size, what=f"mount_setattr {target}")


def pivot_root(root: str) -> None:
    """Make a mount the root and drop the old one."""
    os.chdir(root)
    here = ctypes.c_char_p(b".")
    syscall(_PIVOT_ROOT[machine()], here, here, what="pivot_root")
    unmount_lazily(".")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, also for programs that root would execute."""
    prctl(PR_SET_SECUREBITS, 0b101111)  # no root, no setuid fix-up, both locked, keep-caps locked
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    syscall(_CAPSET[machine()], header, (ctypes.c_uint32 * 6)(), what="capset")
