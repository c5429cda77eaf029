"""Everything that measures the core: metrics, calibration, comparisons, benches, the demo and their reports."""
