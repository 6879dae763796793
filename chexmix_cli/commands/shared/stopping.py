"""Requests to stop: Ctrl-C, a scheduler's SIGTERM, a terminal that closes. All end a run alike; none parts a batch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

#: SIGHUP is not everywhere.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequests:
    """Makes KeyboardInterrupt of every request to stop, while the context is open, in the main thread.

    Between :meth:`hold` and :meth:`release` the first request waits: what is finished is written before it counts. A
    second one counts at once, so that a reader who has stalled holds nobody up.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._is_held = self._is_asked = False

    def hold(self) -> None:
        """Let a request wait from here."""
        self._is_held = True

    def release(self) -> None:
        """Let requests count again.

        Raises:
            KeyboardInterrupt: if there was one.
        """
        was_asked, self._is_held, self._is_asked = self._is_asked, False, False
        if was_asked:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a request wait until the end of this context, or longer where one waits already."""
        was_held = self._is_held
        self.hold()
        yield
        if not was_held:
            self.release()

    def __enter__(self) -> Self:
        is_told = threading.current_thread() is threading.main_thread()
        for name in _NAMES if is_told else ():
            number = getattr(signal, name, None)
            # Ignored on purpose: nohup, and jobs in the background of a script.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_held and not self._is_asked:
            self._is_asked = True
            return
        self._is_held = self._is_asked = False
        raise KeyboardInterrupt
