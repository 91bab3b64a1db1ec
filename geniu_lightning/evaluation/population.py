"""Evaluation of a method by the outputs of many models: U-LiRA, RMIA and KLoM."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import FEW_RETAINED, NO_SIDES, mean_of
from geniu_lightning.evaluation.attacks.rmia import rmia
from geniu_lightning.evaluation.attacks.u_lira import margin, u_lira
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

    - `u_lira`: on margins of training images; `u_lira_retained` on those of the model's largest
      retained class among the retained ones, which no mask changes.
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
    half = min(len(unlearned), len(oracles)) // 2
    family = "klom_gaussian" if half < FEWEST_FOR_HISTOGRAM else "klom"
    for kind, models in (("unlearned", unlearned), ("retrained", oracles)):
        if len(models) < FEWEST_MODELS:
            few = f"at least {FEWEST_MODELS} {kind} models are needed, there are {len(models)}"
            attacks = [
                name.replace(".", f"{form}.") for form in ("", "_retained") for name in ATTACKS
            ]
            places = ("test_forget", "test_retain", "train_forget", "train_retain")
            divergences = [f"{family}.{place}.{name}" for place in places for name in KLOM]
            return dict.fromkeys(attacks + divergences, Absent(few))
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
            first, second = (
                [model[split].of(members) for model in side[: 2 * half]]
                for side in (unlearned, oracles)
            )
            row = _divergences(first, second)
            values |= {f"{family}.{split}_{part}.{name}": value for name, value in row.items()}
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

    def logits(models: Sequence[Model], split: str) -> list[Tensor]:
        whole = [model[split].of((forgotten,)).logits for model in models]
        return whole if retained is None else [one[:, list(retained)] for one in whole]

    margins = (
        torch.stack(
            [
                margin(one, images["train"] if retained is None else one.argmax(dim=1))
                for one in logits(models, "train")
            ]
        )
        for models in (unlearned, oracles)
    )
    values: Values = {f"u_lira.{name}": value for name, value in u_lira(*margins).items()}
    if len(images["test"]) < 2:
        return values | dict.fromkeys(("rmia.auc", "rmia.tpr"), NO_SIDES)
    evaluated: list[Tensor] = []
    references: list[Tensor] = []
    for split in ("train", "test"):
        logs = [[log_softmax(x) for x in logits(models, split)] for models in (unlearned, oracles)]
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


def _divergences(unlearned: Sequence[Outputs], oracles: Sequence[Outputs]) -> Values:
    """Return the values `KLOM` of as many unlearned as retrained models, on some images."""
    labels = oracles[0].labels
    if not len(labels):
        return dict.fromkeys(KLOM, NO_IMAGES)
    ours, theirs = (
        torch.stack([margin(model.logits, labels) for model in side])
        for side in (unlearned, oracles)
    )
    first, second, one, other = ours[0::2], ours[1::2], theirs[0::2], theirs[1::2]
    pairs = {
        ("mean", "p95"): [(first, one), (first, other), (second, one), (second, other)],
        ("floor", "floor_p95"): [(one, other), (other, one)],
    }
    values: Values = {}
    for (mean, tail), compared in pairs.items():
        each = [klom(a, b) for a, b in compared]
        groups = [divergence[labels == k] for divergence in each for k in labels.unique()]
        values[mean] = mean_of([float(group.mean()) for group in groups])
        values[tail] = mean_of([float(group.quantile(0.95)) for group in groups])
    return values
