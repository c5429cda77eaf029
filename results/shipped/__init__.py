"""What the shipped models are worth: `python -m results.shipped.vae` and `python -m results.shipped.denoisers`."""
