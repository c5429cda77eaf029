"""Open regular files alone: a named pipe in a stranger's folder would wait forever for somebody to write to it."""

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """The file for reading, if it is a regular one.

    Raises:
        OSError: missing, not regular, or may not be read.
        ValueError: a NUL in the path.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return open(descriptor, "rb")
