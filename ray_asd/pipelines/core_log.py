"""What Ray's core writes to standard error by itself, past Python."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LOG_LEVEL = rb"Set ray log level from environment"
"""The core repeats the log level that it was given."""

ANY = rb"^\[\d{4}-\d\d-\d\d [^]]*\] "
"""All lines of the core: what they say of a failure, the error raised says too."""


@contextmanager
def without(lines: bytes) -> Iterator[None]:
    """Hold back what is written to standard error, and let pass but the lines that match."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if not re.search(lines, line):
                    os.write(2, line)
