"""How each fault is run, one file per subject. Importing this package adds all of them to the list of faults."""

from orchestrator.testing.conformance.faults import FAULTS
from orchestrator.testing.conformance.runners import attempts as attempts
from orchestrator.testing.conformance.runners import killed_worker as killed_worker
from orchestrator.testing.conformance.runners import messages as messages
from orchestrator.testing.conformance.runners import property as property
from orchestrator.testing.conformance.runners import several as several
from orchestrator.testing.conformance.runners import transitions as transitions
from orchestrator.testing.conformance.runners import undoing as undoing

__all__ = ["FAULTS"]
