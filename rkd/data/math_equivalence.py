"""Whether two LaTeX expressions that are no plain numbers have the same value: math-verify decides.

It runs in a process of its own: an expression that a model wrote can keep a computer algebra system busy for ever. The
process gives up after a limit of its own time, so that results do not depend on the machine's load; if that fails, it
is killed. It reads a JSON list of two expressions from each line of its input and answers true or false. Only digits,
operators and a few commands reach it, and no expression is ever executed.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import selectors
import subprocess
import sys
import threading
from functools import lru_cache

from rkd.processes import with_import_path

SECONDS = 1.0  # of the process's own time, for one comparison
SECONDS_TO_ANSWER = 15.0  # of wall-clock time, after which it is killed
SECONDS_TO_START = 60.0  # importing sympy takes one or two seconds, on a busy machine more
MEMORY_BYTES = 2 * 2**30
MAX_CHARACTERS = 120
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")

_COMMANDS = r"\\(?:[dt]?frac|sqrt|pi|cdot|times|div|left|right)(?![a-zA-Z])"
_EXPRESSION = re.compile(rf"(?:{_COMMANDS}|[\d\s.,+\-*/^(){{}}!])+")
# Towers of powers and large exponents are no answer to a question here, and overload a computer algebra system.
_TOO_LARGE = re.compile(r"\^[^^]*\^|\^\{?-?\d{4}|\d{20}|!\s*!|\d{3}!")
_NEEDS_ALGEBRA = re.compile(r"\\(?:[dt]?frac|sqrt|pi)(?![a-zA-Z])|[\^!]")
_LIST = re.compile(r",(?!\d{3}(?!\d))")  # two expressions are no answer


def canonical_expression(text: str) -> str | None:
    """The expression without blanks and sizes of brackets; None if it is not of the kind that is compared here."""
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[,!; ]", "", text.strip())
    if len(text) > MAX_CHARACTERS or _TOO_LARGE.search(text) or _LIST.search(text):
        return None
    if not _NEEDS_ALGEBRA.search(text) or not _EXPRESSION.fullmatch(text):
        return None
    return re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\s+(?![a-zA-Z])", "", text))


@lru_cache(maxsize=65_536)
def have_same_value(a: str, b: str) -> bool:
    """Whether two expressions, or an expression and a number, are equal; False if this is not found in time."""
    return _worker.compare(a, b)


class _Worker:
    """The process, started when it is first needed and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def compare(self, a: str, b: str) -> bool:
        with self._lock:
            try:
                process = self._process
                if process is None or process.poll() is not None:
                    process = self._start()
                answer = None
                with contextlib.suppress(OSError):  # an earlier line may have ended the process
                    assert process.stdin is not None
                    process.stdin.write(json.dumps([a, b]) + "\n")
                    process.stdin.flush()
                    answer = self._line(process, SECONDS_TO_ANSWER)
            except BaseException:  # an interrupt would leave its answer in the pipe, for the next question
                self.stop()
                raise
            if answer is None:
                self.stop()
            return answer == "true"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}  # without any key or token
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rkd.data.math_equivalence"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=with_import_path(environment),
        )  # fmt: skip
        if self._line(process, SECONDS_TO_START) != "ready":
            self.stop()
            raise RuntimeError(
                "the process that compares expressions did not start: try `python -m rkd.data.math_equivalence`, and "
                "check that math-verify is installed (`pip install -r requirements.txt`)."
            )
        return process

    @staticmethod
    def _line(process: subprocess.Popen[str], seconds: float) -> str | None:
        """The next line of the process; None if it takes longer, or has died."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            is_readable = bool(selector.select(seconds))
        return process.stdout.readline().strip() or None if is_readable else None


_worker = _Worker()
atexit.register(_worker.stop)


def _give_up(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """The process: compares what it reads until its input ends."""
    import resource
    import signal

    from math_verify import LatexExtractionConfig, parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limit is off
    # The other extraction is left out: it calls sympy's parser of Python expressions.
    latex = [LatexExtractionConfig()]
    signal.signal(signal.SIGPROF, _give_up)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            a, b = (parse(f"${text}$", extraction_config=latex, parsing_timeout=None) for text in json.loads(line))
            is_same = bool(a and b) and verify(a, b, timeout_seconds=None)
        except Exception:  # an expression on which the library fails is not shown to be equal
            is_same = False
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(is_same)), flush=True)


if __name__ == "__main__":
    main()
