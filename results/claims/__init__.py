"""The parts of `results/claims.py`: evidence from a compare folder, the tests, the verdicts and the tables."""
