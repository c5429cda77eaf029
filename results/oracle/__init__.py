"""What the variance contributes where the right answer is known: the parts of the study `results.oracle`."""
