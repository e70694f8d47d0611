"""Confines this process and becomes another program: the wrapper that converters of images run in.

    python -I -S confine.py parent=PID memory=BYTES processor=SECONDS file_size=BYTES read=PATH... write=PATH... -- PROGRAM ARG...

It stands alone and imports as little as it can, for it is started for each conversion. Rules, each as far as the kernel offers it:

- Limits on memory, processor time, file size and open files; no core file; it dies with the process that started it.
- No privileges are gained any more. Files: programs and libraries may be read and run, the named paths read or written, nothing else
  opened (Landlock). Network, other processes and the kernel's administration: the system calls are refused (seccomp).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False  # importing typing would take a third of the time
if TYPE_CHECKING:
    from collections.abc import Iterable

_SET_PDEATHSIG, _SET_SECCOMP, _SET_NO_NEW_PRIVS, _FILTER, _SIGKILL = 1, 22, 38, 2, 9

# Landlock (Documentation/userspace-api/landlock.rst of the kernel); the numbers of its calls are those of every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, (1 << 14) - 1), (3, (1 << 15) - 1))
_NETWORK_ABI, _NETWORK_RIGHTS = 4, 3
_PROGRAMS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")

# seccomp: the architecture as the kernel's audit names it, and the refused calls (arch/*/include/uapi/asm/unistd.h)
_NAMES = (
    *("socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "ptrace", "process_vm_readv", "process_vm_writev"),
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "bpf", "userfaultfd", "perf_event_open", "keyctl", "add_key"),
    *("request_key", "init_module", "finit_module", "delete_module", "kexec_load", "open_by_handle_at", "io_uring_setup"),
)
_X86_64 = (
    41,
    42,
    49,
    50,
    43,
    288,
    44,
    46,
    101,
    310,
    311,
    165,
    166,
    155,
    161,
    272,
    308,
    321,
    323,
    298,
    250,
    248,
    249,
    175,
    313,
    176,
    246,
    304,
    425,
)
_AARCH64 = (
    198,
    203,
    200,
    201,
    202,
    242,
    206,
    211,
    117,
    270,
    271,
    40,
    39,
    41,
    51,
    97,
    268,
    280,
    282,
    241,
    219,
    217,
    218,
    105,
    273,
    106,
    104,
    265,
    425,
)
CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, dict(zip(_NAMES, _X86_64, strict=True))),
    "aarch64": (0xC00000B7, dict(zip(_NAMES, _AARCH64, strict=True))),
}
_X32 = 1 << 30
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000


def _limit(memory: int, processor: int, file_size: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (value, value))


def _open_rule(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib costs a third of the start
            rights &= ~_READ_DIR
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
        if libc.syscall(_ADD_RULE, ruleset, 1, rule, 0):
            raise OSError(ctypes.get_errno(), f"no rule for {path}")
    finally:
        os.close(descriptor)


def missing() -> list[str]:
    """What this kernel or machine does not offer, in words; nothing is changed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    found = []
    if libc.syscall(_CREATE_RULESET, None, 0, 1) < 1:
        found.append("Landlock, which keeps them from other files")
    if os.uname().machine not in CALLS:
        found.append(f"a filter of system calls for {os.uname().machine}, which keeps them from the network")
    return found


def _confine_files(libc: ctypes.CDLL, reads: Iterable[str], writes: Iterable[str]) -> bool:
    """Landlock; whether this kernel has it."""
    abi = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return False
    rights = max(known for version, known in _FILE_RIGHTS if abi >= version)
    attributes = struct.pack("=QQ", rights, _NETWORK_RIGHTS) if abi >= _NETWORK_ABI else struct.pack("=Q", rights)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.create_string_buffer(attributes), len(attributes), 0)
    if ruleset < 0:
        return False
    for path in _PROGRAMS:
        _open_rule(libc, ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in (*_DEVICES, *writes):
        _open_rule(libc, ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & rights)
    for path in reads:
        _open_rule(libc, ruleset, path, _READ_FILE)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused its rules")
    os.close(ruleset)
    return True


def program(architecture: int, refused: Iterable[int]) -> bytes:
    """A filter of system calls for the kernel's packet filter machine (seccomp(2)): each instruction has 8 bytes."""
    numbers = sorted(set(refused))
    ends = len(numbers)
    lines = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, ends + 1, 0, _X32),  # a jump counts from the line behind it; the refusal is the last line
        *((_EQUAL, ends - index, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _confine_calls(libc: ctypes.CDLL) -> bool:
    """seccomp; whether it is known how for this machine."""
    known = CALLS.get(os.uname().machine)
    if known is None:
        return False
    code = program(known[0], known[1].values())
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    return not libc.prctl(_SET_SECCOMP, _FILTER, ctypes.create_string_buffer(head, len(head)), 0, 0)


def main(argv: list[str]) -> None:
    """Confine, and become the program behind `--`. Nothing is imported once Python's own files are out of reach."""
    end = argv.index("--")
    path = _find(argv[end + 1])
    if not path:
        sys.stderr.write(f"confine: {argv[end + 1]} is not installed\n")
        sys.exit(127)
    numbers: dict[str, int] = {}
    paths: dict[str, list[str]] = {"read": [], "write": []}
    for word in argv[1:end]:
        name, _, value = word.partition("=")
        if name in paths:
            paths[name].append(value)
        else:
            numbers[name] = int(value)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.prctl(_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != numbers.pop("parent"):
        sys.exit("confine: who started this is gone")
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        sys.exit("confine: privileges cannot be given up")
    _confine_files(libc, paths["read"], paths["write"])
    _confine_calls(libc)
    _limit(**numbers)
    os.execv(path, argv[end + 1 :])  # noqa: S606 - a list, no shell


def _find(program: str) -> str:
    """Where a program is; empty when it is nowhere."""
    for folder in os.environ.get("PATH", "").split(":"):
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    return ""


if __name__ == "__main__":
    main(sys.argv)
