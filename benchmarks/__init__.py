"""What the engine costs beside a plain Temporal saga: `make bench QUICK=1`. See docs/benchmarks.md."""
