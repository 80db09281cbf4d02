"""The one exception that a user of this artifact is meant to see."""

from __future__ import annotations

import errno
import os

_MENDS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Correct its permissions."),
    errno.ELOOP: "Remove the links that lead back to themselves.",
    **dict.fromkeys((errno.EIO, errno.ESTALE), "See to its disk."),
}


class KeyMynaError(Exception):
    """Bad input, or a state that the user can mend: names the file or the parameter and says what to do.

    The runner prints its message alone, without a traceback.
    """


def unreadable(path: os.PathLike[str] | str, error: OSError) -> KeyMynaError:
    """What to raise for a file or folder that the system does not read, with what to do about it where that is known.

    >>> print(unreadable("keys.csv", PermissionError(errno.EACCES, "Permission denied")))
    keys.csv cannot be read (Permission denied). Correct its permissions.
    """
    mend = _MENDS.get(error.errno or 0, "")
    return KeyMynaError(f"{os.fspath(path)} cannot be read ({error.strerror or error}). {mend}".rstrip())
