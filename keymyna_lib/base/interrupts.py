"""Ctrl-C while much is going on in one process and its children: nobody's traceback, and it is never lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of an import or a destructor it is
printed as "Exception ignored", with a traceback, and the program goes on; in an event loop it leaves tasks that
complain later. So the work is done in another thread, and all that can be interrupted is waiting for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

GRACE = 5.0  # s for the work to notice that its children are gone, and to tidy up

groups: set[int] = set()  # process groups that children of the work lead; killed on Ctrl-C


def apart(work: Callable[[], None]) -> None:
    """Call `work`, which can be killed at any moment without harm, in another thread, and wait for it.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C; the groups have been killed, and the work has ended or will end with this process.
    """
    outcome: Future[None] = Future()

    def do() -> None:
        try:
            work()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=do, daemon=True)
    try:
        thread.start()
        wait([outcome])
    except KeyboardInterrupt:
        atexit.register(_leave, thread)
        led = list(groups)
        for group in led:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        thread.join(GRACE if led else 0)
        raise KeyboardInterrupt("what is finished is kept; run again to go on") from None
    outcome.result()


def _leave(thread: threading.Thread) -> None:
    """At the end of the process: a thread that is still at work could crash while Python is taken down around it."""
    if thread.is_alive():
        os._exit(130)
