"""How each fault is played, a file a subject. Importing this enters all of them in the list, in its order."""

from orchestrator.testing.conformance.faults import FAULTS
from orchestrator.testing.conformance.runners import attempts as attempts
from orchestrator.testing.conformance.runners import ends as ends
from orchestrator.testing.conformance.runners import messages as messages
from orchestrator.testing.conformance.runners import processes as processes
from orchestrator.testing.conformance.runners import property as property
from orchestrator.testing.conformance.runners import several as several
from orchestrator.testing.conformance.runners import undoing as undoing

__all__ = ["FAULTS"]
