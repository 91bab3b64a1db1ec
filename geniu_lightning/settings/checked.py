"""The check of arguments against their annotations, by pydantic."""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from geniu_lightning.errors import SettingError

Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
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
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80
VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def checked(target: C) -> C:
    """Make a class check the arguments of its constructor, or a function its own; return it.

    Arguments are passed on as they were given: nothing is converted. A subclass that hands
    `**settings` to its base is checked part by part. Of a function the settings are its
    keyword-only arguments. What depends on two settings at once the constructor checks itself.
    """
    owner: Any = target
    is_class = isinstance(owner, type)
    inner: Callable[..., Any] = owner.__init__ if is_class else target

    @functools.wraps(inner)
    def checking(*args: Any, **kwargs: Any) -> Any:
        _check(type(args[0]) if is_class else target, inner, args, kwargs)
        return inner(*args, **kwargs)

    if is_class:
        owner.__init__ = checking
        return target
    return cast(C, checking)


def _check(
    owner: Callable[..., Any],
    construct: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    signature = inspect.signature(construct)
    if not any(p.kind in VARIADIC for p in signature.parameters.values()):
        for name in kwargs.keys() - signature.parameters.keys():
            raise _unknown(name, _known(owner), owner.__name__)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise SettingError(f"{owner.__name__}: {error}") from error
    for name, adapter in _adapters(construct).items():
        if name not in given:
            continue
        try:
            adapter.validate_python(given[name], strict=True)
        except ValidationError as error:
            # of a union the first branch's complaint is the constraint, the others say "or null"
            found = error.errors(include_url=False)
            null = " or null" if any(e["type"] == "none_required" for e in found) else ""
            path, value = located(found[0]["loc"], given[name])
            message = f"must be {expected(found[0]['msg'])}{null}, got {shown(value)}"
            raise SettingError(message, key=".".join([name, *path])) from error


def located(location: Sequence[str | int], value: Any) -> tuple[list[str], Any]:
    """Return the path and the value at a location; its last parts may name branches of a union."""
    path: list[str] = []
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(str(part))
    return path, value


def shown(value: Any) -> str:
    """Return what a message quotes of a value: its beginning, escaped."""
    return SHORT.repr(value)


def expected(message: str) -> str:
    """Return what a message of pydantic says a value should be."""
    return (
        message.removeprefix("Value error, ")
        .removeprefix("Input should be ")
        .replace("a valid integer", "an integer")
        .replace("a valid dictionary", "a mapping")
        .replace("a valid ", "a ")
    )


def _unknown(name: str, known: list[str], owner: str) -> SettingError:
    """Return the error of a setting that does not exist, with its new name or the nearest one."""
    if RENAMED.get(name) in known:
        return SettingError(f"is now {RENAMED[name]}", key=name)
    if (owner, name) in REMOVED:
        return SettingError(f"was removed: {REMOVED[owner, name]}", key=name)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; it has {', '.join(known) or 'none'}"
    return SettingError(f"is no setting of {owner}{hint}", key=name)


def _known(owner: Callable[..., Any]) -> list[str]:
    """Return the names of the settings of a class and its bases, or of a function, sorted."""
    names: set[str] = set()
    if not isinstance(owner, type):
        own = inspect.signature(owner).parameters.values()
        return sorted(p.name for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY)
    for base in owner.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind not in VARIADIC and p.name != "self"}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return sorted(names)


@functools.cache
def _adapters(construct: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    parameters = inspect.signature(construct).parameters.values()
    skipped = {"return", *(p.name for p in parameters if p.kind in VARIADIC)}
    hints = get_type_hints(construct, include_extras=True)
    return {name: _adapter(hint) for name, hint in hints.items() if name not in skipped}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # dataclasses and models have a configuration of their own
        return TypeAdapter(hint)
