"""Compares the engine with a plain Temporal saga: `make bench QUICK=1`. See docs/benchmarks.md."""
