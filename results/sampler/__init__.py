"""The sampler study: denoisers with variance heads, every sampler on real latents; `python -m results.sampler`."""
