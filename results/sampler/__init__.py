"""The parts of `results/sampler.py`: the denoisers, the samplers, what is drawn, measured and written."""
