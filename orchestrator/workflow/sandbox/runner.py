"""The sandbox in which workflow code runs, without Temporal's support for context-dependent data converters.

Temporal enters an execution's sandbox once for each payload, about thirty times per saga, to get its serialization
context. The engine's converter needs no context, because it has no codec and no external storage. Without these calls a
worker needs a fourteenth less time.
"""

from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import Info


class PlainPayloadsRunner(SandboxedWorkflowRunner):
    """Temporal's sandboxed runner, for workers whose data converter is the same for every execution."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Create a sandboxed instance."""
        return _PlainPayloads(super().create_instance(det))


class _PlainPayloads(WorkflowInstance):
    def __init__(self, sandboxed: WorkflowInstance) -> None:
        self._sandboxed = sandboxed

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return self._sandboxed.activate(act)

    def get_serialization_context(self, command_info: Any) -> None:
        return None

    def get_external_store_context(self, command_info: Any) -> StorageDriverStoreContext:
        return StorageDriverStoreContext(target=None)

    def get_info(self) -> Info:
        return self._sandboxed.get_info()

    def get_thread_id(self) -> int | None:
        return self._sandboxed.get_thread_id()
