"""What a figure was made on (processor, memory, versions and commit), and how a shortage of memory shows."""

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
    """What the figures were made on."""
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
    """Versions of what the figures depend on."""
    names = ("jeppa", "torch", "diffusers", "numpy", "pillow", "scikit-image", "scoringrules", "torchmetrics")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def commit() -> str | None:
    """The commit of the source tree that runs, or None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def processor() -> str:
    """Its name, with those of the instructions that decide how fast nets run on it: `AMD EPYC (avx2, avx512f)`."""
    fields = _fields()
    name = fields.get("model name") or platform.processor()
    found = [instruction for instruction in INSTRUCTIONS if instruction in fields.get("flags", "").split()]
    return f"{name} ({', '.join(found)})" if found else name


def _fields() -> dict[str, str]:
    """Of the first core in /proc/cpuinfo; none where there is no such file."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    pairs = (line.partition(":") for line in info.read_text().partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


# On a processor torch says it by a RuntimeError: its own allocator, that of C++, and oneDNN's. "Could not create a
# primitive descriptor" is another thing: oneDNN has no kernel for what it was given.
_MESSAGES = re.compile(
    r"can't allocate memory|bad_alloc|could not (create a memory|(create|execute) a primitive)(?! descriptor)"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory was short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None


def note(text: str) -> None:
    """Tell one line on standard error, or wherever the application sends the log of jeppa."""
    logging.getLogger("jeppa").warning(text)
