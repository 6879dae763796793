"""Runs command lines in one process in which our code finds nothing that Windows lacks; not a test module itself.

``python posix_blocked.py LINES``, where LINES is a JSON list of argument lists; the exit codes come on stderr, as JSON.
It stands in for a machine of another system as far as that can be done on one: names are taken away, paths stay.
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
from types import ModuleType
from typing import Any

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt", "nis", "spwd", "posix"}
SIGNALS = ("SIGPIPE", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL", "SIGCHLD", "SIGQUIT")
SIGNAL_CALLS = ("pthread_sigmask", "sigpending", "sigwait", "alarm", "setitimer", "siginterrupt")
OS_CALLS = ("fork", "getuid", "geteuid", "getgid", "sched_getaffinity", "fchmod", "killpg", "getloadavg", "statvfs")

_import = builtins.__import__


def _import_as_elsewhere(name: str, *rest: Any, **named: Any) -> ModuleType:
    globals_ = rest[0] if rest else named.get("globals")
    asker = (globals_ or {}).get("__name__", "")
    if asker.startswith("chexmix_cli") and name.split(".")[0] in MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, *rest, **named)


def block() -> None:
    """Take away what Windows has not; of modules only from our own code, as other packages look at sys.platform."""
    builtins.__import__ = _import_as_elsewhere
    os.environ.setdefault("USERNAME", "someone")  # as Windows does; torch asks for it
    for module, names in ((signal, SIGNALS + SIGNAL_CALLS), (os, OS_CALLS)):
        for name in names:
            vars(module).pop(name, None)


# Worker processes start by importing this file under the second name.
if __name__ in ("__main__", "__mp_main__"):
    block()

if __name__ == "__main__":
    from chexmix_cli.__main__ import run

    print(json.dumps([int(run(line)) for line in json.loads(sys.argv[1])]), file=sys.stderr)
