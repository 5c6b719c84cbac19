"""The measurements: ``./dev bench`` writes docs/benchmarks/; `micro` is for pytest-benchmark."""
