"""What a step moves between a coordinator and the worker of one member: bytes of the real frames, no network.

python benchmarks/moved.py [--rows 262144] [--ids 1000]
"""

from __future__ import annotations

import argparse

import numpy as np

from unisono.backends.base import Array
from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import Call, call_frame, rows_frame
from unisono.backends.top_logprobs import TopLogprobs

TEXTS = (1, 16, 64, 256, 1024)
TOPS = (20, 200, None)
HEAD = {"session": "0" * 32, "number": 1000, "instance": "0" * 32, "model": "0" * 32, "seconds": 0.0123}


def asked(texts: int, ids: int) -> int:
    """Bytes of a call: all ids of each text, the last of which is new."""
    questions = [Question(slot, range(ids), ids - 1, 1) for slot in range(texts)]
    return sum(part.nbytes for part in call_frame(Call("0" * 32, 1000, "0" * 32, questions)))


def answered(texts: int, rows: int, top: int | None) -> int:
    told: Array | TopLogprobs
    if top is None:
        told = np.zeros((texts, rows), np.float32)
    else:
        shape, unseen, kth = (texts, top), np.full(texts, 0.5), np.full(texts, 1e-3)
        told = TopLogprobs(
            np.tile(np.arange(top, dtype=np.int32), (texts, 1)), np.full(shape, -9.0, np.float32), unseen, kth, rows
        )
    return sum(part.nbytes for part in rows_frame(HEAD, told))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--ids", type=int, default=1000)
    given = parser.parse_args()
    names = [f"top: {top}" if top else "whole rows" for top in TOPS]
    print(f"| texts | asked, {given.ids} ids each | {' | '.join(names)} |")
    print("|---:" * (2 + len(names)) + "|")
    for texts in TEXTS:
        told = [answered(texts, given.rows, top) for top in TOPS]
        print(f"| {texts:,} | {' | '.join(f'{size / 1000:,.1f} kB' for size in [asked(texts, given.ids), *told])} |")


if __name__ == "__main__":
    main()
