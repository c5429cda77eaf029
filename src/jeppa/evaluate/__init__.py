"""Measures of pictures that only the studies in `results/` use."""
