"""A refusal's details as JSON, checked where they are created, so that a reader gets the same contract back."""

import json

from pydantic import JsonValue, ValidationError

from orchestrator.event import Contract
from orchestrator.values.round_trip import deeper_than, difference

DETAILS_LIMIT = 16 * 1024
"""The maximum size of a refusal's details in bytes. A failure event contains them in addition to its whole triggering
event, and must fit into an envelope."""
DETAILS_NESTING = 50
"""The maximum nesting depth of a refusal's details. It is half of an event's, because a failure event that starts
another saga is contained in that saga's failure event."""


def details_as_json(details: Contract) -> dict[str, JsonValue]:
    """Return a contract's fields as JSON that is read back as the same contract.

    Raises:
        ValueError: the details are too large, nested too deep, or would come back as another value.
    """
    name = type(details).__name__
    try:
        text = details.model_dump_json(warnings=False)  # what does not fit is refused below, when it is read
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{name} cannot be written as JSON ({type(fault).__name__})") from fault
    if (size := len(text.encode())) > DETAILS_LIMIT:
        raise ValueError(
            f"{name} takes {size:,} bytes and the limit is {DETAILS_LIMIT:,}; store large data in a table and refer to "
            "its key"
        )
    fields: dict[str, JsonValue] = json.loads(text)
    if deeper_than(DETAILS_NESTING, fields):
        raise ValueError(f"{name} is nested deeper than {DETAILS_NESTING} levels")
    try:
        again = type(details).model_validate_json(text, strict=True)
    except ValidationError as fault:
        field = ".".join(str(part) for part in fault.errors(include_url=False, include_input=False)[0]["loc"])
        raise ValueError(f"{name} could not be read back, because of {field or 'one of its validators'}") from None
    if (how := difference(details, again)) is not None:
        raise ValueError(f"{name} would come back as another value: {how}")
    return fields
