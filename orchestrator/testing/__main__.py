"""`python -m orchestrator.testing MODULE...`: see `full_run`, whose functions other processes import from there."""

import sys

from orchestrator.testing.conformance.full_run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
