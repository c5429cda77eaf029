"""Many processes and machines: what it costs, what survives, what a simulation advises."""
