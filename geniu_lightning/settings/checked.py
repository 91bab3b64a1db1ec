"""The check of arguments against their annotations, by pydantic.

A constructor says what a setting may hold in its signature and nowhere else:

    def __init__(self, *, steps: NonNegativeInt, beta: Annotated[float, Field(ge=0, le=1)] = 0.95)

What depends on two settings at once is checked by hand, in the constructor, with `SettingError`.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from geniu_lightning.errors import SettingError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]

RENAMED = {
    "agreement": "label_agreement",
    "denials": "forget_logit_fraction",
    "leave_out": "drop_fraction",
    "supervision": "exemplar_strategy",
}
REMOVED = {
    ("Regrow", "budget"): "use unlearner=coreset for a budget of raw images",
    ("Regrow", "forgotten_inputs"): "the student sees proxies of retained classes alone",
    ("Regrow", "masked"): "forget classes are always masked",
    ("Regrow", "source"): "the inputs are always proxies",
}

C = TypeVar("C", bound=Callable[..., Any])
VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def checked(target: C) -> C:
    """Make a class check the arguments of its constructor, or a function its own; return it.

    Arguments are passed on as they were given: nothing is converted, and no word is read as a
    number. A subclass that hands `**settings` to its base is checked part by part. Of a function
    the settings are its keyword-only arguments.

    Raises:
        SettingError: When called, in one sentence that names the setting, what it may hold and
            what it holds; for an unknown one the nearest known one.
    """
    owner: Any = target
    is_class = isinstance(owner, type)
    inner: Callable[..., Any] = owner.__init__ if is_class else target

    @functools.wraps(inner)
    def checking(*args: Any, **kwargs: Any) -> Any:
        check(type(args[0]) if is_class else target, inner, args, kwargs)
        return inner(*args, **kwargs)

    if is_class:
        owner.__init__ = checking
        return target
    return cast(C, checking)


def check(
    cls: Callable[..., Any],
    construct: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Raise `SettingError` unless arguments fit the annotations of `cls`'s constructor."""
    signature = inspect.signature(construct)
    if not any(p.kind in VARIADIC for p in signature.parameters.values()):
        for name in kwargs:
            if name not in signature.parameters:
                raise unknown(name, known_settings(cls), cls.__name__)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise SettingError(f"{cls.__name__}: {error}") from error
    adapters = _adapters(construct)
    for name, value in given.items():
        if name in adapters:
            check_value(name, value, adapters[name])


def check_value(name: str, value: Any, adapter: TypeAdapter[Any]) -> None:
    """Raise `SettingError` unless a value fits a type."""
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        # of a union the last branch's complaint is the constraint, the others say "or null"
        found = error.errors(include_url=False)
        wanted = expected(found[0]["msg"])
        nullable = any(e["type"] == "none_required" for e in found)
        raise SettingError(
            f"must be {wanted}{' or null' if nullable else ''}, got {value!r}", key=name
        ) from error


def unknown(name: str, known: list[str], owner: str) -> SettingError:
    """Return the error of a setting that does not exist, with its new name or the nearest one."""
    if RENAMED.get(name) in known:
        return SettingError(f"is now {RENAMED[name]}", key=name)
    if (owner, name) in REMOVED:
        return SettingError(f"was removed: {REMOVED[owner, name]}", key=name)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; it has {', '.join(known) or 'none'}"
    return SettingError(f"is no setting of {owner}{hint}", key=name)


def known_settings(cls: Callable[..., Any]) -> list[str]:
    """Return the names of the settings of a class and its bases, or of a function, sorted."""
    names: set[str] = set()
    if not isinstance(cls, type):
        own = inspect.signature(cls).parameters.values()
        return sorted(p.name for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY)
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind not in VARIADIC and p.name != "self"}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return sorted(names)


@functools.cache
def _adapters(construct: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(construct, include_extras=True)
    variadic = {
        p.name for p in inspect.signature(construct).parameters.values() if p.kind in VARIADIC
    }
    config = ConfigDict(arbitrary_types_allowed=True)
    return {
        name: _adapter(hint, config)
        for name, hint in hints.items()
        if name not in variadic | {"return"}
    }


def _adapter(hint: Any, config: ConfigDict) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=config)
    except PydanticUserError:  # dataclasses and models have a configuration of their own
        return TypeAdapter(hint)


def expected(message: str) -> str:
    """Return what a message of pydantic says a value should be."""
    return (
        message.removeprefix("Value error, ")
        .removeprefix("Input should be ")
        .replace("a valid integer", "an integer")
        .replace("a valid dictionary", "a mapping")
        .replace("a valid ", "a ")
    )
