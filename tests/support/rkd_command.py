"""`python -m rkd` within the process of a test."""

import contextlib
import io
from pathlib import Path
from subprocess import CompletedProcess

from rkd.__main__ import main


def rkd_command(*arguments: str, folder: Path | None = None) -> CompletedProcess:
    """What a user gets who calls the command in a folder: exit code and texts."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder or Path.cwd()),
    ):
        try:
            code = main(arguments)
        except SystemExit as end:  # `--help`
            code = end.code or 0
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
