"""Describes the errors that pydantic reports, for the messages of the engine."""

from pydantic import ValidationError


def describe(fault: ValidationError) -> str:
    """Describe each wrong field in one line, without its value, because that may be personal data."""
    descriptions: list[str] = []
    for error in fault.errors(include_url=False, include_input=False, include_context=False):
        field = ".".join(str(part) for part in error["loc"])
        text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        descriptions.append(f"{field}: {text}" if field else text)
    return "; ".join(descriptions)
