"""Describe the machine that made a figure (processor, memory, versions, commit), and recognise a lack of memory."""

import logging
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Processor, memory, system and versions, for the record of a measurement."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        **versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that measurements depend on."""
    names = ("jeppa", "torch", "diffusers", "numpy", "pillow", "scikit-image", "scoringrules", "torchmetrics")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> str | None:
    """The git commit of the source tree that this file is in, or None if it is in none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def processor() -> str:
    """Name of the processor and its instruction sets that make nets fast, as in `AMD EPYC (avx2, avx512f)`."""
    fields = _fields()
    name = fields.get("model name") or platform.processor()
    present = [instruction for instruction in INSTRUCTIONS if instruction in fields.get("flags", "").split()]
    return f"{name} ({', '.join(present)})" if present else name


def _fields() -> dict[str, str]:
    """The fields of the first core in /proc/cpuinfo; empty on systems without that file."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    pairs = (line.partition(":") for line in info.read_text().partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


# On a CPU, a lack of memory is a RuntimeError of torch with the message of its own allocator, of C++'s or of oneDNN's.
# oneDNN's "could not create a primitive descriptor" is another error: it has no kernel for the given shapes.
_MESSAGES = re.compile(
    r"can't allocate memory|bad_alloc|could not (create a memory|(create|execute) a primitive)(?! descriptor)"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory was short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None


def note(text: str) -> None:
    """Log one line: to standard error, unless the application sends the log of jeppa elsewhere."""
    logging.getLogger("jeppa").warning(text)
