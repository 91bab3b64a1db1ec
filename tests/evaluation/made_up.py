"""A model, its references and controls, of values made up: what the decision rule is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from geniu_lightning.evaluation import checks
from geniu_lightning.evaluation.evidence import Evidence
from geniu_lightning.evaluation.metric import Absent, MetricInfo, Value, Values
from geniu_lightning.evaluation.verdict import Decision, decide

# values of oracles and of the original, by family, in an evaluation of all
INSIDE: dict[str, tuple[float, float]] = {
    "relearning": (0.3, 0.96),
    "retain_only": (0.1, 0.95),
    "adaptive": (0.45, 0.9),
    "features": (0.6, 0.95),
    "head": (0.0, 0.98),
    "quantisation": (0.0, 0.96),
    "membership": (0.5, 0.75),
}
NAMES = {name: family.name for family in checks.INSIDE for name in family.checks}
ORACLE: dict[str, float] = {
    "accuracy.test.retain": 0.95,
    "accuracy.test.retain_minority": 0.94,
    "accuracy.test.worst_retained": 0.9,
    "accuracy.test.forget": 0.0,
    "accuracy.train.forget": 0.0,
    "confusion.attractor_retained": 0.01,
    "confusion.attractor": 0.2,
    "confusion.distance": 0.1,
    "divergence.test_forget.js": 0.05,
    "divergence.train_forget.js": 0.05,
    "membership.loss.auc": 0.5,
    "membership.standard_error": 0.01,
    "retained_attack.auc": 0.7,
    "retained_attack.distance": 0.1,
    "own_proxies.area": 0.3,
    **{name: INSIDE[family][0] for name, family in NAMES.items()},
}
ORIGINAL = (
    ORACLE
    | {"accuracy.test.forget": 0.98, "accuracy.train.forget": 1.0}
    | {name: INSIDE[family][1] for name, family in NAMES.items()}
)
MASK = ORIGINAL | {"accuracy.test.forget": 0.0, "accuracy.train.forget": 0.0}
SPREAD = (0.0, 0.008, -0.008, 0.004, -0.004)
IMAGES = dict.fromkeys(("forget", "retain", "minority", "worst"), 1000)


@dataclass
class Case:
    """A model that is an oracle but for some changes, with its references and controls."""

    changes: Mapping[str, Value | Absent] = field(default_factory=dict)
    count: int = 5
    without: tuple[str, ...] = ("-",)
    nulls: Sequence[Mapping[str, float]] = ()  # what each has otherwise than an oracle
    matched: bool = False
    intact: bool = True
    images: Mapping[str, int] = field(default_factory=lambda: IMAGES)

    def __post_init__(self) -> None:
        self.model = self._of(ORACLE | dict(self.changes))
        self.oracles = [self._of(ORACLE, SPREAD[k % 5]) for k in range(self.count)]
        self.controls = {"original": self._of(ORIGINAL), "mask": self._of(MASK)}

    def _of(self, row: Mapping[str, Value | Absent], shift: float = 0.0) -> Values:
        """Return a row without some families; values inside are shifted, as those of a seed."""
        return {
            name: value + shift if name in NAMES and isinstance(value, float) else value
            for name, value in row.items()
            if not name.startswith(self.without)
        }

    def decide(self) -> Decision:
        names = {*self.model, *ORACLE}
        return decide(
            Evidence(
                self.model,
                self.oracles,
                [[row for row in self.oracles if row is not own] for own in self.oracles],
                self.controls,
                dict.fromkeys(names, MetricInfo("oracle")),
                self.images,
                [
                    self._of(ORACLE | dict(null), s)
                    for null, s in zip(self.nulls, SPREAD, strict=False)
                ],
                self.matched,
                self.intact,
            )
        )


def of_family(family: str, value: float) -> dict[str, float]:
    return {name: value for name, own in NAMES.items() if own == family}
