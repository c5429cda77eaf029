"""The claims study: every promise of the project with the tests that decide it, run by `python -m results.claims`."""
