"""A program run as `python -I -S leash.py ... -- COMMAND`: it becomes COMMAND, bound to whoever started it.

Standard library only, so that it is there within milliseconds. In this order it

- leaves the terminal's process group, so that Ctrl-C reaches the supervisor alone, which stops things in
  order;
- lets others go first where COMMAND may wait, by as many steps of niceness as were named, its session
  included: Linux may share the cores out among sessions first, and then regards niceness within each only;
- asks for short turns on a core where COMMAND answers calls (Linux 6.12), so that it need not wait until the
  turn of a process is over that was just woken for something longer;
- takes an exclusive lock on a file and leaves it open for COMMAND and its children: the lock ends with the
  last of them, whatever killed them, so nobody has to judge whether a process id in a file is the right
  process;
- becomes another user where COMMAND refuses to run as root, keeping the capabilities that were named;
- asks the kernel for a signal when the starting process dies (Linux), `kill -9` included.

Exit status 75 means that the lock is held by another process.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import sys
import time

LOCKED = 75  # EX_TEMPFAIL
GROUP_ATTEMPTS, GROUP_PAUSE_S = 10, 0.05
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # no C library before glibc 2.41 has a name for it


def main() -> None:
    """Apply the options and become the command."""
    options = argparse.ArgumentParser()
    options.add_argument("--parent", type=int, required=True, help="id of the process that starts this one")
    options.add_argument("--signal", type=int, required=True, help="sent when the parent dies")
    options.add_argument("--lock", help="file to hold a lock on")
    options.add_argument("--nice", type=int, default=0)
    options.add_argument("--turn-ns", type=int, default=0)
    options.add_argument("--uid", type=int)
    options.add_argument("--gid", type=int)
    options.add_argument("--keep", type=int, default=0, help="capabilities to keep as that user, a bit mask")
    options.add_argument("command", nargs="+")
    given = options.parse_args()
    os.setsid()
    if given.nice > 0:
        stand_behind("/proc/self", os.nice(given.nice))
    if given.turn_ns > 0:
        _take_short_turns(given.turn_ns)
    if given.lock is not None:
        _lock(given.lock)
    if given.uid is not None:
        _become(given.uid, given.gid, given.keep)
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, given.signal)
    if os.getppid() != given.parent:  # it died before it could be watched
        sys.exit(1)
    os.execv(given.command[0], given.command)  # noqa: S606 - becoming the command is the purpose; no shell is wanted


def stand_behind(process: str, steps: int) -> None:
    """Give the session of a process, by its directory in /proc, that niceness; blocks half a second at most.

    Nothing is done where the cores are not shared out among sessions, or there is no such process.
    """
    for _ in range(GROUP_ATTEMPTS):
        try:
            group = os.open(f"{process}/autogroup", os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(group, b"%d" % steps)
            finally:
                os.close(group)
        except BlockingIOError:  # the kernel takes ten of these a second, from all users together
            time.sleep(GROUP_PAUSE_S)
        except OSError:  # not Linux, or one without such groups, or it has gone
            return
        else:
            return


class _Attributes(ctypes.Structure):
    """Linux's `struct sched_attr` as it was first; `runtime` is the length of an ordinary process's turn."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def _take_short_turns(turn_ns: int) -> None:
    """Ask for turns of that length; what cannot be had, or is not known here, is not missed."""
    number = _SCHED_SETATTR.get(os.uname().machine)
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    attributes = _Attributes(size=ctypes.sizeof(_Attributes), nice=os.nice(0), runtime=turn_ns)
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)


def _lock(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(LOCKED)
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())  # sound for as long as the lock is held
    os.set_inheritable(file, True)


def _become(uid: int, gid: int, keep: int) -> None:
    os.setgroups([])
    if sys.platform != "linux":
        os.setregid(gid, gid)
        os.setreuid(uid, uid)
        return
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable: the low words, then the high ones.
    data = (ctypes.c_uint32 * 6)(keep, keep, keep, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capset({keep:#x}): {os.strerror(error)}")
    for capability in range(keep.bit_length()):
        if keep >> capability & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)  # lasts beyond exec


def _prctl(option: int, *values: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *padded) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


if __name__ == "__main__":
    main()
