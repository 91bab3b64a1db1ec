"""Arguments are checked against annotations, and objects are made of settings by their names."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.settings.checked import Fraction, Positive, PositiveInt, checked
from geniu_lightning.settings.configs import built, method_settings


class Base:
    def __init__(self, *, steps: PositiveInt = 1, label_agreement: float = 0.0) -> None:
        self.steps = steps


@checked
class Method(Base):
    def __init__(
        self,
        *,
        rate: Positive = 1.0,
        share: Fraction = 0.5,
        beta: Annotated[float, Field(ge=0, lt=1)] | None = None,
        kind: Literal["a", "b"] = "a",
        sizes: list[int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.given = (rate, sizes)


@checked
@dataclass
class Point:
    x: int
    y: float = 0.0


@checked
def function(place: int, *, keyword: int = 0) -> int:
    return place + keyword


checked(Base)


def test_what_fits_is_passed_on_as_it_was_given() -> None:
    sizes = [1, 2]
    made = Method(rate=2, sizes=sizes, steps=3)
    assert made.given[1] is sizes
    assert (made.steps, made.given[0], type(made.given[0])) == (3, 2, int)
    assert (Point(1, 2).y, function(1, keyword=2)) == (2, 3)
    assert Method(beta=None, share=1).steps == 1


def test_what_does_not_fit_is_refused_by_its_name() -> None:
    for make, said in (
        (lambda: Method(rate=0.0), "rate must be greater than 0, got 0.0"),
        (lambda: Method(rate=float("inf")), "rate must be a finite number, got inf"),
        (lambda: Method(rate="1"), "rate must be a number, got '1'"),
        (lambda: Method(share=1.5), "share must be less than or equal to 1, got 1.5"),
        (lambda: Method(beta=1.0), "beta must be less than 1"),
        (lambda: Method(kind="c"), "kind must be 'a' or 'b', got 'c'"),
        (lambda: Method(sizes="12"), "sizes must be a list"),
        (lambda: Method(steps=True), "steps must be an integer, got True"),
        (lambda: Method(steps=0), "steps must be greater than or equal to 1, got 0"),
        (lambda: Method(stesp=1), "stesp is no setting of Method; did you mean steps?"),
        (lambda: Method(agreement=1.0), "agreement is now label_agreement"),
        (lambda: Point(x="1"), "x must be an integer"),
        (lambda: Point(), "Point: missing a required argument: 'x'"),
        (lambda: Point(1, zzz=1), "zzz is no setting of Point; it has x, y"),
        (
            lambda: function(1, keywrod=1),
            "keywrod is no setting of function; did you mean keyword?",
        ),
    ):
        with pytest.raises(SettingError) as error:
            make()
        assert str(error.value).startswith(said), said


def test_an_object_is_made_of_settings_and_its_error_names_the_path() -> None:
    target = f"{__name__}.Point"
    config = OmegaConf.create({"_target_": target, "x": "${y}", "y": 2})
    assert built(config, "group") == Point(2, 2)
    made = built({"_target_": f"{__name__}.Method", "sizes": OmegaConf.create([1])})
    assert type(made.given[1]) is list
    with pytest.raises(SettingError, match=r"^group\.y must be a number, got 'z'"):
        built({"_target_": target, "x": 1, "y": "z"}, "group")
    nested = {"_target_": "builtins.dict", "inner": {"_target_": target, "x": 0.5}}
    with pytest.raises(SettingError, match=r"^group\.inner\.x must be an integer"):
        built(nested, "group")
    with pytest.raises(UserError, match="nosuch cannot be made"):
        built({"_target_": "nosuch"})
    with pytest.raises(UserError, match=r"no method .genui.; there are .*geniu"):
        method_settings("genui")
