"""The worker that handles what the sources send: `python -m tests.sources.worker`."""

from orchestrator.worker import Manager
from tests.sources.application import CATALOG

if __name__ == "__main__":
    Manager(catalog=CATALOG).main()
