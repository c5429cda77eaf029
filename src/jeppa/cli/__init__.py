"""The command line: parse, make one library call, print. `jeppa --help` lists the commands.

Exit codes: 0 done, 2 bad usage or input (one line), 1 a failure of ours, 130 or 143 after a signal.
"""

import sys
from pathlib import Path

import cyclopts

from jeppa.cli.making import generate, reconstruct
from jeppa.cli.measuring import bench, calibrate, compare, evaluate
from jeppa.cli.mixing import interpolate, mix
from jeppa.cli.shipped import models
from jeppa.cli.terminal import complain, console, say
from jeppa.cli.training import train_app
from jeppa.errors import JeppaError

app = cyclopts.App(
    name="jeppa",
    help="Train, evaluate and use heteroscedastic VAEs for latent diffusion.",
    result_action="return_value",
)
app.command(train_app)
for command in (reconstruct, generate, interpolate, mix, evaluate, calibrate, compare, bench, models):
    app.command(command)


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Train small models on built-in photographs and show what they do in OUT/report.html.

    Args:
        out: folder to write; a demo that was stopped goes on where it was.
        seed: seed of everything.
    """
    from jeppa.demo import run_demo

    say(f"report: {run_demo(out, seed, console)}")


def main() -> None:
    """Run the command line and exit with the documented code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code instead of raising for anything that a user can cause."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (JeppaError, cyclopts.CycloptsError) as error:
        return complain(error, 2)
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        from jeppa.memory import lacks_memory
        from jeppa.train import Interrupted

        if isinstance(error, Interrupted):
            return complain(error, 128 + error.signal_number)
        if lacks_memory(error):
            return complain(JeppaError("memory runs short: free some, or ask for smaller pictures or fewer at once"), 2)
        raise
    return 0
