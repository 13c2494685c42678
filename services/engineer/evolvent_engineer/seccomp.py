"""Seccomp: the system calls that a candidate may not make.

A list of refusals and not of permissions: what numerical libraries call changes with every release, while what
leads out of a sandbox is known. Source of the list: the default profiles of Docker and systemd, without what a
namespace or landlock already answers.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evolvent_engineer import kernel

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit number of each machine, and its column in the tables below."""
_NONE = -1
_X32 = 0x40000000

_REFUSED = {
    # the queues and shared memory that outlive a process
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "tkill": (200, 130),
    # large and little used parts of the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "personality": (135, 92), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "lookup_dcookie": (212, 18),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, _NONE),
    "ioperm": (173, _NONE),
    # identity
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91),
    # memory that belongs to no process
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip
_CHANGES = {
    "chmod": (90, _NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, _NONE),
    "lchown": (94, _NONE), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, _NONE), "utimes": (235, _NONE), "utimensat": (280, 88), "futimesat": (261, _NONE),
    "inotify_init": (253, _NONE), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
}  # fmt: skip
"""What landlock does not control: the modes, owners, times and events of files anywhere."""
_FORKS = {"fork": (57, _NONE), "vfork": (58, _NONE), "execve": (59, 221), "execveat": (322, 281)}
_SIGNALS = {"kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_SOCKET = (41, 198)
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32
"""Offsets in `struct seccomp_data`; of the arguments, the low half of each (little-endian)."""
_TYPE_MASK = 0xF
_TCP = (0, socket.IPPROTO_TCP)
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_SECCOMP = {"x86_64": 317, "aarch64": 277}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a filter depends on."""

    threads: bool
    """May start threads."""
    forks: bool
    """May fork and execute."""
    signals: bool
    """May signal whatever else contains it, and not only itself."""
    changes: bool
    """May change modes, owners and times of files."""
    streams: bool = False
    """May open TCP sockets, and ask the kernel which interfaces there are: gloo and NCCL start with `getifaddrs`.

    Every other kind stays shut, UDP with it: name servers pass questions on to half the world.
    """
    letters: bool = False
    """May open Unix datagram sockets: NCCL binds one at its start, with or without a process beside it.

    Source: `ncclProxyInit` and `ncclIpcSocketInit` of NCCL 2.18 and later.
    """


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refusal(number: int) -> bytes:
    return _instruction(_RETURN, 0x00050000 | number)


def _program(rules: Rules, pid: int) -> Iterator[bytes]:
    """Compile the rules to BPF: one comparison and one return for each refused call, in turn."""
    architecture, column = _ARCHITECTURES[kernel.machine()]
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield _instruction(_EQUAL, architecture, 1, 0)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER)
    if column == 0:
        yield _instruction(_AT_LEAST, _X32, 0, 1)
        yield _refusal(errno.ENOSYS)
    yield from _refused(_REFUSED | ({} if rules.changes else _CHANGES), column, errno.EPERM)
    yield from _refused({"clone3": _CLONE3}, column, errno.ENOSYS)  # its flags lie in memory; libc turns to clone
    if not rules.forks:
        yield from _refused(_FORKS, column, errno.EAGAIN)
    yield from _clone(rules, column)
    yield from _socket(rules, column)
    if not rules.signals:
        yield from _own_signals(pid, column)
    yield _instruction(_RETURN, _ALLOW)


def _refused(calls: dict[str, tuple[int, int]], column: int, number: int) -> Iterator[bytes]:
    for numbers in calls.values():
        if numbers[column] != _NONE:
            yield _instruction(_EQUAL, numbers[column], 0, 1)
            yield _refusal(number)


def _clone(rules: Rules, column: int) -> Iterator[bytes]:
    """Refuse new namespaces always, and threads or processes where the rules do."""
    yield _instruction(_EQUAL, _CLONE[column], 0, 6)
    yield _instruction(_LOAD, _FIRST)
    yield _instruction(_ANY_BIT, _CLONE_NAMESPACES, 0, 1)
    yield _refusal(errno.EPERM)
    yield _instruction(_ANY_BIT, _CLONE_THREAD, 0, 1)
    yield _instruction(_RETURN, _ALLOW) if rules.threads else _refusal(errno.EAGAIN)
    yield _instruction(_RETURN, _ALLOW) if rules.forks else _refusal(errno.EAGAIN)


def _socket(rules: Rules, column: int) -> Iterator[bytes]:
    """Allow the families, types and protocols that the rules do, and no other."""
    body: list[bytes] = []
    if rules.streams:
        body += _allowed(
            [(_FIRST, (socket.AF_INET, socket.AF_INET6)), (_SECOND, (socket.SOCK_STREAM,)), (_THIRD, _TCP)]
        )
        body += _allowed([(_FIRST, (_AF_NETLINK,)), (_THIRD, (_NETLINK_ROUTE,))])
    if rules.letters:
        body += _allowed([(_FIRST, (socket.AF_UNIX,)), (_SECOND, (socket.SOCK_DGRAM,))])
    body.append(_refusal(errno.EPERM))
    yield _instruction(_EQUAL, _SOCKET[column], 0, len(body))
    yield from body


def _allowed(wanted: Sequence[tuple[int, tuple[int, ...]]]) -> list[bytes]:
    """Return from the filter if each argument, without a type's flags, has one of its values; else go on behind."""
    body = [_instruction(_RETURN, _ALLOW)]
    for argument, values in reversed(wanted):
        checks = [
            _instruction(_EQUAL, value, len(values) - 1 - number, len(body) if value == values[-1] else 0)
            for number, value in enumerate(values)
        ]
        mask = [_instruction(_AND, _TYPE_MASK)] if argument == _SECOND else []
        body = [_instruction(_LOAD, argument), *mask, *checks, *body]
    return body


def _own_signals(pid: int, column: int) -> Iterator[bytes]:
    for numbers in _SIGNALS.values():
        yield _instruction(_EQUAL, numbers[column], 0, 4)
        yield _instruction(_LOAD, _FIRST)
        yield _instruction(_EQUAL, pid, 0, 1)
        yield _instruction(_RETURN, _ALLOW)
        yield _refusal(errno.EPERM)


def available() -> bool:
    return kernel.machine() in _ARCHITECTURES


def install(rules: Rules) -> None:
    """Filter the system calls of this process and its children for good. Needs `no_new_privs`.

    Raises:
        OSError: the kernel has no seccomp filters.
    """
    code = b"".join(_program(rules, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    number = _SECCOMP[kernel.machine()]
    set_filter, flags = ctypes.c_uint(1), ctypes.c_uint(0)
    kernel.syscall(number, set_filter, flags, ctypes.c_char_p(head), what="seccomp")
