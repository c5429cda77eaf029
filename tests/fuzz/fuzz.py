"""Fuzz one target with atheris (libFuzzer): python tests/fuzz/fuzz.py TARGET [options of libFuzzer] CORPUS..."""

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["jeppa", "PIL", "yaml", "zipfile"]):
    from targets import run_one


def main() -> None:
    """Run until the options say stop; anything that is no JeppaError ends it with a file that repeats it."""
    target = sys.argv.pop(1)
    warnings.simplefilter("ignore")

    def test_one_input(data: bytes) -> None:
        run_one(target, data)

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
