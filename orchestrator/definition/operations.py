"""Checks of one operation, its compensation and its verification."""

import inspect
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from orchestrator.definition.checks.databases import fault_of_name
from orchestrator.definition.durations import (
    fault_of_duration,
    faults_of_endless_retry,
    faults_of_never_retry,
    faults_of_retry,
)
from orchestrator.definition.source import Source
from orchestrator.definition.types import Use, faults_of_type, name_of, problem_of_schema
from orchestrator.errors import Problem
from orchestrator.external import Confirmed, ExternalCall, ExternalOperation, Verification
from orchestrator.operation import Compensation, Operation, Reversal
from orchestrator.protocol.reserved_names import ACTIVITY_PREFIX, TEMPORAL_PREFIX
from orchestrator.transaction import Transaction

NAME_LIMIT = 200
"""The maximum length of an operation's name, which is the length of its column."""
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def problems_of_operation(operation: Operation[..., Any]) -> Iterator[Problem]:
    """Find every fault of one operation, its compensation and its verification."""
    say = operation.source.problem
    yield from (say(fault) for fault in operation.faults)
    yield from _problems_of_options(operation)
    yield from _problems_of_name(operation.name, operation.source)
    body = operation.signature.body
    hints: Mapping[str, Any] | None = None
    if inspect.isfunction(body):
        hints = _hints(body)
        yield from _problems_of_body(operation, hints)
    else:
        yield say(f"{_short(operation.name)} is not a function: an operation is an `async def` of a module")
    for compensation in (operation.undo, *operation.surplus):
        if compensation is not None:
            yield from _problems_of_compensation(operation, compensation, hints)
    if isinstance(operation, ExternalOperation):
        yield from _problems_of_external(operation, hints)


def _problems_of_options(operation: Operation[..., Any]) -> Iterator[Problem]:
    say = operation.source.problem
    name = _short(operation.name)
    if (fault := fault_of_duration(operation.deadline, "deadline=timedelta(seconds=30)")) is not None:
        yield say(f"{name} has the deadline {fault}")
    yield from (say(f"{name} {fault}") for fault in _faults_of_retries(operation))
    if (fault := fault_of_name(operation.database)) is not None:
        yield say(f"{name} says database={fault}")
    reason: Any = operation.reason
    match operation.reversal:
        case Reversal.IRREVERSIBLE:
            if not isinstance(reason, str) or not reason.strip():
                yield say(f'{name} gives no reason: write `@operation(irreversible="why it cannot be undone")`')
            if operation.undo is not None:
                yield operation.undo.source.problem(
                    f"{_short(operation.undo.name)} undoes {name}, which says that it is irreversible: "
                    "remove one of the two"
                )
        case Reversal.NOTHING:
            if operation.undo is not None:
                yield operation.undo.source.problem(
                    f"{_short(operation.undo.name)} undoes {name}, which is a @query and changes nothing: "
                    "remove it, or make the query an @operation"
                )
        case Reversal.RETRIABLE:
            if operation.undo is not None:
                yield operation.undo.source.problem(
                    f"{_short(operation.undo.name)} undoes {name}, which is retriable: it comes after the pivot, where "
                    "nothing is undone. Remove one of the two"
                )
        case Reversal.COMPENSATED:
            if operation.undo is None:
                yield say(
                    f"{name} has no compensation: write `@{name}.compensation` above an `async def`, or say "
                    f'`@{_decorator(operation)}(irreversible="why")`'
                    + (", or `@query` if it only reads" if operation.kind == "operation" else "")
                )
    for more in operation.surplus:
        first = _short(operation.undo.name) if operation.undo else ""
        yield more.source.problem(
            f"{name} has two compensations, {first} and {_short(more.name)}: combine them into one"
        )


def _faults_of_retries(operation: Operation[..., Any]) -> Iterator[str]:
    yield from faults_of_retry(operation.retry)
    yield from faults_of_never_retry(operation.never_retry)
    if operation.reversal is Reversal.RETRIABLE:
        why = "it is retriable, which means that it is retried until it succeeds"
        yield from faults_of_endless_retry(operation.retry, operation.never_retry, why)


def _problems_of_name(name: str, source: Source) -> Iterator[Problem]:
    if name.startswith(TEMPORAL_PREFIX):
        yield source.problem(f"{name} begins with {TEMPORAL_PREFIX}, which is reserved for Temporal: rename the module")
    if name.startswith(ACTIVITY_PREFIX):
        yield source.problem(f'{name} begins with "saga.", which is reserved for the engine: rename the module')
    if len(name) > NAME_LIMIT:
        yield source.problem(f"{name} is longer than {NAME_LIMIT} characters: shorten it")


def _problems_of_body(operation: Operation[..., Any], hints: Mapping[str, Any] | None) -> Iterator[Problem]:
    say = operation.source.problem
    name = _short(operation.name)
    body = operation.signature.body
    if hints is None:
        yield say(_unresolved(body))
    yield from (say(fault) for fault in _faults_of_function(body, hints, _context(operation)))
    if "return" not in body.__annotations__:
        yield say(f"{name} does not say what it returns: write `-> None`, or the type of its result")
    for parameter in operation.signature.parameters.values():
        if parameter.kind in _BY_NAME and parameter.annotation is parameter.empty:
            yield say(f"{name}: {parameter.name} has no type: write `{parameter.name}: ...`")
        if parameter.name == "result":
            yield say(f'{name} takes "result", but in a compensation that is the name of its result: use another name')
    if hints is None:
        return
    for parameter in operation.signature.parameters.values():
        if parameter.name in hints and parameter.kind in _BY_NAME:
            yield from _problems_of_parameter(operation, parameter, hints[parameter.name])
    if "return" in hints:
        yield from (say(f"{name}: its result, {fault}") for fault in _faults_of_carriage(hints["return"], Use.RESULT))


def _problems_of_parameter(operation: Operation[..., Any], parameter: Parameter, hint: Any) -> Iterator[Problem]:
    say = operation.source.problem
    subject = f"{_short(operation.name)}: {parameter.name}"
    if hint in (Transaction, ExternalCall):
        yield say(f"{subject} is a second {hint.__name__}: a step has one")
        return
    faults = _faults_of_carriage(hint, Use.ARGUMENT)
    yield from (say(f"{subject}, {fault}") for fault in faults)
    if faults or parameter.default is parameter.empty:
        return
    try:
        TypeAdapter(hint).validate_python(parameter.default, strict=True)
    except ValidationError:
        yield say(f"{subject} has the default {parameter.default!r}, which is not of type {name_of(hint)}")


def _faults_of_carriage(hint: Any, use: Use) -> list[str]:
    faults = faults_of_type(hint, use)
    if not faults and (refused := problem_of_schema(hint)):
        faults.append(f"{name_of(hint)} cannot be stored as JSON ({refused})")
    return faults


def _problems_of_compensation(
    operation: Operation[..., Any], compensation: Compensation, known: Mapping[str, Any] | None
) -> Iterator[Problem]:
    say = compensation.source.problem
    name = _short(compensation.name)
    body = compensation.body
    yield from _problems_of_name(compensation.name, compensation.source)
    yield from (say(f"{name} {fault}") for fault in faults_of_retry(compensation.retry))
    yield from (
        say(f"{name} {fault}")
        for fault in faults_of_endless_retry(compensation.retry, (), "a compensation is retried until it succeeds")
    )
    if not inspect.isfunction(body):
        yield say(f"{name} is not a function: a compensation is an `async def` of a module")
        return
    hints = _hints(body)
    if hints is None:
        yield say(_unresolved(body))
    yield from (say(fault) for fault in _faults_of_function(body, hints, _context(operation)))
    if body.__annotations__.get("return", Parameter.empty) not in (None, "None"):
        yield say(f"{name} returns something that is never used: write `-> None`")
    yield from _problems_of_parameters(name, compensation, operation, known, hints, takes_result=True)


def _problems_of_parameters(
    name: str,
    declared: Compensation | Verification,
    operation: Operation[..., Any],
    known: Mapping[str, Any] | None,
    hints: Mapping[str, Any] | None,
    *,
    takes_result: bool,
) -> Iterator[Problem]:
    """Check that a compensation or a verification takes the operation's parameters by name, with their types."""
    say = declared.source.problem
    undone = _short(operation.name)
    offered: list[str] = []
    if known is not None:
        offered = [
            parameter.name for parameter in operation.signature.parameters.values() if parameter.kind in _BY_NAME
        ]
    for parameter in list(inspect.signature(declared.body).parameters.values())[1:]:
        if parameter.kind not in _BY_NAME:
            continue
        if parameter.default is not parameter.empty:
            yield say(f"{name}: {parameter.name} has a default, but the engine always passes it: remove the default")
        if known is None:
            continue
        is_result = takes_result and parameter.name == "result"
        if not is_result and parameter.name not in offered:
            yield say(_unoffered(name, parameter.name, undone, offered, takes_result=takes_result))
            continue
        if parameter.annotation is parameter.empty:
            yield say(f"{name}: {parameter.name} has no type: write the type that it has in {undone}")
            continue
        of_operation = known.get("return" if is_result else parameter.name)
        if hints is not None and of_operation is not None and hints[parameter.name] != of_operation:
            what = "what it returns" if is_result else "it"
            yield say(
                f"{name}: {parameter.name} is {name_of(hints[parameter.name])}, but {undone} says {what} is "
                f"{name_of(of_operation)}: use the same type"
            )


def _problems_of_external(operation: ExternalOperation[..., Any], known: Mapping[str, Any] | None) -> Iterator[Problem]:
    say = operation.source.problem
    name = _short(operation.name)
    if (fault := fault_of_duration(operation.time_limit, "time_limit=timedelta(seconds=10)")) is not None:
        yield say(f"{name} has the time limit {fault}")
    if operation.verify is None:
        if operation.reversal is Reversal.COMPENSATED:
            yield say(
                f"{name} has no verification, so it could not be undone when a reply is lost: write "
                f"`@{name}.verification` above an `async def` that asks whether it happened"
            )
        return
    for verification in (operation.verify, *operation.surplus_verifications):
        yield from _problems_of_verification(operation, verification, known)
    for more in operation.surplus_verifications:
        yield more.source.problem(f"{name} has two verifications: combine them into one")


def _problems_of_verification(
    operation: ExternalOperation[..., Any], verification: Verification, known: Mapping[str, Any] | None
) -> Iterator[Problem]:
    say = verification.source.problem
    body: Any = verification.body
    if not inspect.isfunction(body):
        yield say(f"the verification of {_short(operation.name)} is not a function: write an `async def` of a module")
        return
    name: str = body.__name__
    hints = _hints(body)
    if hints is None:
        yield say(_unresolved(body))
    yield from (say(fault) for fault in _faults_of_function(body, hints, ExternalCall))
    if hints is not None and known is not None and "return" in known:
        result: Any = known["return"]
        answers = get_args(hints.get("return"))
        confirmed = [get_args(answer) for answer in answers if get_origin(answer) is Confirmed]
        if len(answers) != 2 or type(None) not in answers or confirmed != [(result,)]:
            shown = name_of(result)
            yield say(f"{name} must return whether the call happened: write `-> Confirmed[{shown}] | None`")
    yield from _problems_of_parameters(name, verification, operation, known, hints, takes_result=False)


def _context(operation: Operation[..., Any]) -> type:
    """The type of an operation's first parameter."""
    return ExternalCall if isinstance(operation, ExternalOperation) else Transaction


def _decorator(operation: Operation[..., Any]) -> str:
    return "external_operation" if isinstance(operation, ExternalOperation) else "operation"


def _unoffered(name: str, wanted: str, undone: str, offered: list[str], *, takes_result: bool) -> str:
    if len(offered) == 1:
        return f'{name} takes "{wanted}" where {undone} takes "{offered[0]}": use the same name'
    shown = ", ".join(f'"{parameter}"' for parameter in offered) or "nothing"
    or_result = ', or "result"' if takes_result else ""
    return f'{name} takes "{wanted}", but {undone} takes {shown}: use the same name{or_result}'


def _faults_of_function(body: Any, hints: Mapping[str, Any] | None, context: type) -> Iterator[str]:
    """Find the faults that an operation, a compensation and a verification can all have."""
    name: str = body.__name__
    form = "tx: Transaction" if context is Transaction else "call: ExternalCall"
    noun = "transaction" if context is Transaction else "external call"
    if "." in body.__qualname__.rpartition("<locals>.")[2]:
        yield f"{body.__qualname__} is part of a class: write it as a function of the module"
    if not inspect.iscoroutinefunction(body):
        yield f"{name} is not asynchronous: write `async def {name}({form}, ...)`"
    parameters = list(inspect.signature(body).parameters.values())
    first = parameters[0] if parameters else None
    if first is None or (hints is not None and hints.get(first.name) is not context):
        shown = "takes no parameter" if first is None else f'takes "{first.name}" first'
        yield f"{name} {shown}: its first parameter is the {noun}, `async def {name}({form}, ...)`"
    for parameter in parameters[1:]:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            yield f"{name}: {stars}{parameter.name} has no fixed names: name each parameter, or accept a tuple"
        elif parameter.kind is Parameter.POSITIONAL_ONLY:
            yield f"{name}: {parameter.name} is positional only, but arguments are recorded by name: remove `/`"


def _hints(body: Any) -> Mapping[str, Any] | None:
    try:
        return get_type_hints(body, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None


def _unresolved(body: Any) -> str:
    try:
        get_type_hints(body, include_extras=True)
        why = ""
    except (NameError, TypeError, AttributeError, SyntaxError) as fault:
        why = str(fault)
    return (
        f"an annotation of {body.__name__} cannot be resolved, {why}: "
        "import it at the top of the module, outside of TYPE_CHECKING"
    )


def _short(name: str) -> str:
    return name.rpartition(".")[2]
