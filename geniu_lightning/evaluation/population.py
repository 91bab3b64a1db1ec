"""Evaluation of a method by the outputs of many models: U-LiRA, RMIA and KLoM."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import FEW_RETAINED, NO_SIDES, mean_of
from geniu_lightning.evaluation.attacks.rmia import rmia
from geniu_lightning.evaluation.attacks.u_lira import margin, retained_margin, u_lira
from geniu_lightning.evaluation.context import Outputs, log_softmax
from geniu_lightning.evaluation.metric import Absent, MetricInfo, Values
from geniu_lightning.evaluation.metrics.klom import FEWEST_FOR_HISTOGRAM, klom
from geniu_lightning.evaluation.references import EPSILON_AREA, EPSILON_SHARE

FEWEST_MODELS = 16  # on each side
INFOS = {  # by the last part of the name of a value
    "auc": MetricInfo("oracle", 0.5, EPSILON_AREA),
    "tpr": MetricInfo("lower", 0.01, EPSILON_SHARE),
    "accuracy": MetricInfo("oracle", 0.5, EPSILON_SHARE),
    "mean": MetricInfo("lower"),
    "p95": MetricInfo("lower"),
    "floor": MetricInfo("oracle"),
    "floor_p95": MetricInfo("oracle"),
}
ATTACKS = ("u_lira.auc", "u_lira.tpr", "u_lira.accuracy", "rmia.auc", "rmia.tpr")
KLOM = ("mean", "p95", "floor", "floor_p95")
NO_IMAGES = Absent("there are no images of such classes")

Model = Mapping[str, Outputs]


def evaluate_population(
    unlearned: Sequence[Model], oracles: Sequence[Model], forget: tuple[int, ...]
) -> Values:
    """Compare many unlearned models with many retrained ones.

    - `u_lira`: on margins of training images; `u_lira_retained` on `retained_margin`.
    - `rmia`: mean over unlearned models; `rmia_retained` with probabilities over retained classes,
      and the oracles' largest of these as label.
    - `klom`, or `klom_gaussian` with fewer than 50 models in each half: mean and 95th percentile
      over images. `floor` is the same between two halves of the oracles. As the estimate falls with
      the number of models, halves of the unlearned ones are compared with halves of the oracles.

    Each is found within a class, then the mean is taken over classes that have images.

    Args:
        unlearned: Outputs of each on `test` and `train`, one model of each training seed.
        oracles: Likewise, on the same images.
        forget: Forgotten classes.
    """
    sides = {"unlearned": unlearned, "retrained": oracles}
    for kind, models in sides.items():
        if len(models) < FEWEST_MODELS:
            few = f"at least {FEWEST_MODELS} {kind} models are needed, there are {len(models)}"
            return dict.fromkeys(_names(min(map(len, sides.values())) // 2), Absent(few))
    for split in ("test", "train"):
        labels = [model[split].labels for model in (*unlearned, *oracles)]
        if not all(torch.equal(labels[0], other) for other in labels):
            raise ValueError(f"the outputs of the models are not on the same {split} images")
    classes = range(oracles[0]["train"].logits.shape[1])
    retained = tuple(k for k in classes if k not in forget)
    values: Values = {}
    for suffix, seen in (("", None), ("_retained", retained)):
        rows = [_attacks(unlearned, oracles, k, seen) for k in forget]
        for name in ATTACKS:
            attack, _, value = name.partition(".")
            found = mean_of([row[name] for row in rows if row]) if any(rows) else NO_SIDES
            values[f"{attack}{suffix}.{value}"] = found
    for split in ("test", "train"):
        for part, members in (("forget", forget), ("retain", retained)):
            values |= _klom_values(unlearned, oracles, split, part, members)
    return values


def _attacks(
    unlearned: Sequence[Model],
    oracles: Sequence[Model],
    forgotten: int,
    retained: tuple[int, ...] | None,
) -> Values:
    """Return the `ATTACKS` on one class, from logits of some retained classes or of all."""
    if retained is not None and len(retained) < 2:
        return dict.fromkeys(ATTACKS, FEW_RETAINED)
    images = {split: oracles[0][split].of((forgotten,)).labels for split in ("train", "test")}
    if not len(images["train"]):
        return {}

    margins = (
        torch.stack([_margin(model["train"].of((forgotten,)), retained) for model in models])
        for models in (unlearned, oracles)
    )
    found = u_lira(*margins)
    values: Values = {f"u_lira.{name}": value for name, value in found.items()}
    if len(images["test"]) < 2:
        return values | dict.fromkeys(("rmia.auc", "rmia.tpr"), NO_SIDES)
    evaluated: list[Tensor] = []
    references: list[Tensor] = []
    for split in ("train", "test"):
        logs = [
            [_logs(model[split].of((forgotten,)), retained) for model in models]
            for models in (unlearned, oracles)
        ]
        label = images[split][:, None]
        if retained is not None:
            label = torch.stack([one.exp() for one in logs[1]]).mean(dim=0).argmax(1, keepdim=True)
        for side, models in zip((evaluated, references), logs, strict=True):
            side.append(torch.stack([one.gather(1, label).squeeze(1) for one in models]))
    rows = [
        rmia(members, references[0], unseen, references[1])
        for members, unseen in zip(*evaluated, strict=True)
    ]
    return values | {f"rmia.{name}": mean_of([row[name] for row in rows]) for name in rows[0]}


def _margin(outputs: Outputs, retained: tuple[int, ...] | None = None) -> Tensor:
    if retained is None:
        return margin(outputs.logits, outputs.labels)
    return retained_margin(outputs.logits, retained)


def _logs(outputs: Outputs, retained: tuple[int, ...] | None) -> Tensor:
    return log_softmax(outputs.logits if retained is None else outputs.logits[:, list(retained)])


def _klom_values(
    unlearned: Sequence[Model],
    oracles: Sequence[Model],
    split: str,
    part: str,
    classes: tuple[int, ...],
) -> Values:
    half = min(len(unlearned), len(oracles)) // 2
    prefix = f"{'klom_gaussian' if half < FEWEST_FOR_HISTOGRAM else 'klom'}.{split}_{part}"
    labels = oracles[0][split].of(classes).labels
    if not len(labels):
        return {f"{prefix}.{name}": NO_IMAGES for name in KLOM}
    ours, theirs = (
        torch.stack([_margin(model[split].of(classes)) for model in side])
        for side in (unlearned, oracles)
    )
    (first, second), (one, other) = (
        (side[0::2][:half], side[1::2][:half]) for side in (ours, theirs)
    )
    pairs = {
        ("mean", "p95"): [(first, one), (first, other), (second, one), (second, other)],
        ("floor", "floor_p95"): [(one, other), (other, one)],
    }
    values: Values = {}
    for names, compared in pairs.items():
        each = [klom(a, b) for a, b in compared]
        groups = [divergence[labels == k] for divergence in each for k in labels.unique()]
        values[f"{prefix}.{names[0]}"] = mean_of([float(group.mean()) for group in groups])
        values[f"{prefix}.{names[1]}"] = mean_of([float(group.quantile(0.95)) for group in groups])
    return values


def _names(half: int) -> list[str]:
    """Return all names of values of a population, by the size of each half."""
    attacks = [name.replace(".", f"{form}.") for form in ("", "_retained") for name in ATTACKS]
    family = "klom_gaussian" if half < FEWEST_FOR_HISTOGRAM else "klom"
    places = ("test_forget", "test_retain", "train_forget", "train_retain")
    return attacks + [f"{family}.{place}.{name}" for place in places for name in KLOM]
