"""The parts of `results/shipped_denoisers.py` and `results/shipped_vae.py`, and what both write."""
