"""What goes wrong, and what is said of it: the errors and log records of both engines, in one place."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from errno import ECONNRESET, EPIPE

logger = logging.getLogger("evio")


def socket_error(errno: int) -> OSError:
    """Return what `closed` is given for a failed read or write.

    A peer that went away before it took its replies has reset the connection, whichever of the
    two errnos the kernel happens to report.
    """
    if errno == EPIPE:
        errno = ECONNRESET
    return OSError(errno, os.strerror(errno))


def idle_error(idle_timeout: float) -> TimeoutError:
    """Return what `closed` is given where nothing came or went for `idle_timeout` seconds."""
    return TimeoutError(f"no byte in either direction for {idle_timeout:g} seconds")


def linger_error(linger: float) -> TimeoutError:
    """Return what `closed` is given where the peer did not take the last replies for `linger` seconds."""
    return TimeoutError(f"the peer took nothing of its last replies for {linger:g} seconds")


def overflow_error(max_pending: int) -> BufferError:
    """Return what `closed` is given where more was queued behind more than `max_pending` bytes."""
    return BufferError(f"more than max_pending={max_pending} bytes are waiting for the peer to read")


def log_failure(callback: str, id: int, error: Exception) -> None:
    """Log what a callback raised, with its traceback."""
    _log(logging.ERROR, "%s() failed for connection %d", callback, id, error=error)


def log_accept_paused(errno: int) -> None:
    """Log that no connection can be accepted for now; once for each episode."""
    _log(logging.WARNING, "accepting is paused, clients wait in the backlog: %s", os.strerror(errno))


def _log(level: int, message: str, *args: object, error: Exception | None = None) -> None:
    try:
        logger.log(level, message, *args, exc_info=error)
    except Exception:
        # A handler of the user's has failed, which is no reason for a server to. Told as logging itself does.
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(Exception):  # stderr may be closed, as a daemon's is: then there is no one to tell
                traceback.print_exc()
