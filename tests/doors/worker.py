"""The worker behind the doors: `python -m tests.doors.worker`."""

from orchestrator.worker import Manager
from tests.doors.house import CATALOG

if __name__ == "__main__":
    Manager(catalog=CATALOG).main()
