"""`python -m orchestrator.testing MODULE...` runs every suite of these modules; see `conformance.entry_points`."""

import sys

from orchestrator.testing.conformance.entry_points import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
