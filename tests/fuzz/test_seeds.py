"""The seeds of the fuzzing, findings among them, are taken or refused in one line; `make fuzz` goes on from them."""

from pathlib import Path

import pytest
from targets import TARGETS, run_one

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_taken_or_refused(target: str):
    """Red when a reader lets any other exception out: for archives, when a member without a name is asked `is_dir`."""
    taken = [run_one(target, path.read_bytes()) for path in sorted((CORPUS / target).iterdir())]
    assert any(taken)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000
