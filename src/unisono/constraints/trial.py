"""A process that compiles constraints before a server does: ``python -m unisono.constraints.trial``.

Grammars are compiled by native code, which recurses over what a client wrote and can run for minutes, or crash. Here
that costs nobody anything: the process ends at its limits, and the server starts another one. It reads a constraint a
line from stdin, ``[kind, source]`` in JSON, and answers with a line: ``null`` where a grammar came of it, or
``[message, hint]`` of the error.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import numpy as np

from unisono.config.constraint import Constraint
from unisono.constraints.grammar import Grammars
from unisono.errors import BackendMissing, SpecError
from unisono.vocab.marks import MARKS
from unisono.vocab.union import UnionVocabulary

PROCESSOR_SECONDS = 1.0
"""For one constraint; a schema of 200 KB takes a third of that. Windows has no such timer: whoever waits has one."""
MEMORY = 2 * 2**30
"""Bytes of address space, with the interpreter and its libraries; on Linux. Elsewhere time alone bounds them."""
STACK = 2**20
"""Bytes, an eighth of what threads have where the grammar is compiled afterwards."""
WORDS = 300
"""Characters of an unexpected error that are told."""
SIMPLER = "make it simpler"


def main() -> None:
    if sys.platform != "win32":
        import os
        import resource

        os.nice(5)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":  # macOS does not keep to it
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(STACK)
    offset_U = np.append(np.arange(256), [256] * (len(MARKS) + 1))
    union = UnionVocabulary((), bytes(range(256)), offset_U, (), MARKS)
    for line in sys.stdin:
        outcome: list[object] = []
        trial = threading.Thread(target=_try, args=(union, line, outcome))
        _limit(PROCESSOR_SECONDS)
        trial.start()
        trial.join()
        _limit(0)
        print(json.dumps(outcome[0] if outcome else ["the constraint cannot be compiled", SIMPLER]), flush=True)


def _limit(seconds: float) -> None:
    """End the process after so much processor time from now on, wherever it is then; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _try(union: UnionVocabulary, line: str, outcome: list[object]) -> None:
    try:
        Grammars(union)(Constraint(*json.loads(line)))
    except SpecError as error:
        outcome.append([error.message, error.hint])
    except BackendMissing:  # which the server says by itself
        outcome.append(None)
    except (RecursionError, MemoryError):
        outcome.append(["the constraint is nested too deeply, or too large", SIMPLER])
    except BaseException as error:  # a panic in native code is no Exception
        words = " ".join(f"{type(error).__name__}: {error}".split())[:WORDS]
        outcome.append([f"the constraint cannot be compiled: {words}", SIMPLER])
    else:
        outcome.append(None)


if __name__ == "__main__":
    main()
