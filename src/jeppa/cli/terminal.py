"""What the command line says, and where."""

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from jeppa.data import ImageSource

console = Console()


def say(line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def say_skipped(source: "ImageSource") -> None:
    """Count and list what lies in a source but is not used."""
    if source.skipped:
        say(f"skipped {len(source.skipped)} files beside {len(source)} images:")
    for skipped in source.skipped:
        say(f"  {skipped.name}: {skipped.reason}")


def complain(error: BaseException, code: int) -> int:
    """Print an error as one line on standard error; returns `code`."""
    line = f"jeppa: {' '.join(str(error).split())}"
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    return code
