"""How each fault is played, a file a subject. Importing this enters all of them in the list, in its order."""

from orchestrator.testing.faults import FAULTS
from orchestrator.testing.plays import attempts as attempts
from orchestrator.testing.plays import ends as ends
from orchestrator.testing.plays import messages as messages
from orchestrator.testing.plays import processes as processes
from orchestrator.testing.plays import property as property
from orchestrator.testing.plays import several as several
from orchestrator.testing.plays import undoing as undoing

__all__ = ["FAULTS"]
