"""A verb of the command line as the command of a Ray job, with the same options."""

from __future__ import annotations

import os
import sys

from ray_asd import cli

# Ray sets it for the command of a submitted job, and for nothing else.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def run(name: str) -> None:
    """Run the verb ``name`` with this process's arguments, and leave with its exit code.

    A submitted job joins the cluster that runs it, unless ``--address`` says otherwise; started
    by hand, it is the command line's own verb.

    Raises:
        SystemExit: with the command line's exit codes (:mod:`ray_asd.cli`).
    """
    joined = ["--address", "auto"] if _SUBMITTED in os.environ else []
    # Of an option that is given twice the last one holds: the caller's own address.
    sys.argv[1:] = [name, *joined, *sys.argv[1:]]
    cli.main()
