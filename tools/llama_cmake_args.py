"""Print the CMAKE_ARGS with which llama-cpp-python is compiled for this machine.

On x86-64 Linux the processor's features are named one by one instead of ``GGML_NATIVE=ON``: a
native build also switches on AMX where the processor has it, and llama.cpp's AMX code then crashes
with a segmentation fault in the first decode. Everything else the processor has is switched on, so
nothing but AMX is lost. Elsewhere (arm64, macOS with Metal) native is right and is left as it is.

llama.cpp's multimodal library and its "common" library, which only its own programs use, are left
out: that halves the time to compile. Whatever the user has in CMAKE_ARGS comes last and wins.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LEAN = Path(__file__).resolve().with_name("llama-lean.cmake")

FEATURES: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "SSE42": ({"sse4_2"}, ("-msse4.2",)),
    "AVX": ({"avx"}, ("-mavx",)),
    "AVX2": ({"avx2"}, ("-mavx2",)),
    "BMI2": ({"bmi2"}, ("-mbmi2",)),
    "FMA": ({"fma"}, ("-mfma",)),
    "F16C": ({"f16c"}, ("-mf16c",)),
    "AVX_VNNI": ({"avx_vnni"}, ("-mavxvnni",)),
    "AVX512": ({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}, ("-mavx512f", "-mavx512bw")),
    "AVX512_VBMI": ({"avx512f", "avx512vbmi"}, ("-mavx512vbmi",)),
    "AVX512_VNNI": ({"avx512f", "avx512_vnni"}, ("-mavx512vnni",)),
    "AVX512_BF16": ({"avx512f", "avx512_bf16"}, ("-mavx512bf16",)),
}
"""GGML's name of a feature: the flags of /proc/cpuinfo it needs, and the compiler's switches for it."""


def cmake_args(environment: Mapping[str, str] = os.environ) -> str:
    """The arguments as one string, quoted as a shell would want them."""
    arguments = ["-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={LEAN}"]
    arguments += processor_args()
    theirs = environment.get("CMAKE_ARGS", "")
    return " ".join([shlex.join(arguments), theirs]).strip()


def processor_args() -> list[str]:
    """Those that are for the processor."""
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"):
        return _processor_args(_processor_flags(Path("/proc/cpuinfo").read_text()))
    return []


def _processor_flags(cpuinfo: str) -> set[str]:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()


def _processor_args(flags: set[str]) -> list[str]:
    arguments = ["-DGGML_NATIVE=OFF"]
    for name, (needed, switches) in FEATURES.items():
        usable = needed <= flags and _compiler_knows(switches)
        arguments.append(f"-DGGML_{name}={'ON' if usable else 'OFF'}")
    return [*arguments, "-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF", "-DGGML_AMX_BF16=OFF"]


def _compiler_knows(switches: tuple[str, ...]) -> bool:
    """Whether the C compiler takes the switches: an old one may not know what a new processor has."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    try:
        command = [*compiler, *switches, "-E", "-x", "c", os.devnull]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return True  # no compiler at all: the build itself says that best


if __name__ == "__main__":
    print(cmake_args())
