"""The parts of `results/tiling.py`."""
