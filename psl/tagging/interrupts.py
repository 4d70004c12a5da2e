"""Ctrl-C while a file is decoded.

Owns that it is not lost: libsndfile reads files through callbacks of soundfile, where
an exception is printed and forgotten, and the file would pass for a short one.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_CALLBACKS = "vio_"
"""What the names of soundfile's callbacks begin with."""
_AGAIN_SECONDS = 0.01


@contextlib.contextmanager
def keep_interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, a little later if a callback is running.

    Does nothing where SIGINT is ignored or has another handler, or in another thread
    than the main one.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    inner = frame
    while inner is not None:
        if inner.f_code.co_name.startswith(_CALLBACKS):
            timer = threading.Timer(_AGAIN_SECONDS, _send_again)
            timer.daemon = True
            timer.start()
            return
        inner = inner.f_back
    signal.default_int_handler(number, frame)


def _send_again() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)
