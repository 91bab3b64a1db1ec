"""Aggregate scores ToW, AUS and NoMUS, for comparison with papers that print them."""

import statistics
from typing import ClassVar

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.membership import own, sides
from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import NO_ORACLE, lacking, mean_over, per_class

NO_PAIR = Absent("no forgotten class has both training and test images")


class Scores(Metric):
    """ToW, AUS and NoMUS, with accuracies that are means over classes, in [0, 1].

    **None of them tells forgetting from hiding**: a logit mask gets the full score in all of them.

    A_f and A_r are accuracies on forgotten and retained classes, D training and T test images, o
    the original, u the model, Δ the difference to the oracles' mean.

    - `tow` (arXiv 2406.01257): (1 - abs ΔA_f(D)) (1 - abs ΔA_r(D)) (1 - abs ΔA_r(T)). The paper has
      plain accuracies and all test images.
    - `tow_mia`: its first factor is 1 - abs ΔM, M the area under the curve of the attack that calls
      images with a low loss members, within each forgotten class.
    - `aus` (arXiv 2312.02052, removal of classes): (1 - (A_r(T; o) - A_r(T; u))) / (1 + A_f(T; u)).
    - `nomus` (arXiv 2311.02240, λ = ½): ½ A_r(T) + ½ (1 - 2 abs(a - ½)), a as `attack_accuracy`
      finds it between training and test images of one class; mean over forgotten classes.
    """

    needs = frozenset({"original", "oracles"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        name: MetricInfo("higher", 1.0) for name in ("tow", "tow_mia", "aus", "nomus")
    }

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        lack = {
            split: lacking(context, split, context.forget)
            or lacking(context, split, context.retained)
            for split in ("test", "train")
        }
        nothing = lack["test"] or lack["train"]
        values: Values = dict.fromkeys(self.infos, nothing) if nothing else {}
        if lack["test"] is None:
            retained = _accuracy(context, context.unlearned, "test", context.retained)
            before = _accuracy(context, context.original, "test", context.retained)
            forgotten = _accuracy(context, context.unlearned, "test", context.forget)
            values["aus"] = (1 - (before - retained)) / (1 + forgotten)
            if nothing is None:
                attack = _attack(context)
                if isinstance(attack, float):
                    attack = (retained + 1 - 2 * abs(attack - 0.5)) / 2
                values |= {"nomus": attack} | _tow(context)
        return {name: values[name] for name in self.infos}


def attack_accuracy(members: Tensor, non_members: Tensor, generator: torch.Generator) -> float:
    """Return how well a threshold tells members, on images that had no say in choosing it.

    Both sides are halved by the generator. On one half of each the threshold, and the side of it
    that is called members, are those with the largest balanced accuracy ½ (TPR + TNR), the lowest
    of equally good ones; the other halves score it. Then the halves change places, and the mean is
    taken; ½ by chance. Chosen and scored on the same images, it would be above ½ for equal laws
    too.
    """
    one, other = _halves(members, generator), _halves(non_members, generator)
    first, second = (one[0], other[0]), (one[1], other[1])
    return (_chosen_then_scored(first, second) + _chosen_then_scored(second, first)) / 2


def _halves(side: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mixed = side[torch.randperm(len(side), generator=generator)]
    return mixed[: len(side) // 2], mixed[len(side) // 2 :]


def _chosen_then_scored(chosen: tuple[Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> float:
    values = torch.cat(chosen).unique()
    if len(values) == 1:
        return 0.5
    thresholds = (values[1:] + values[:-1]) / 2
    gains = _gain(*chosen, thresholds)
    best = int(gains.abs().argmax())
    side = 1 if gains[best] >= 0 else -1
    return 0.5 + side * _gain(*scored, thresholds[best : best + 1]).item()


def _gain(members: Tensor, non_members: Tensor, thresholds: Tensor) -> Tensor:
    """Return by how much calling what is above thresholds members beats ½, shape `(T,)`."""
    # counted in whole numbers, so that rounding decides no tie between thresholds
    hits, alarms = (
        len(side) - torch.searchsorted(side.sort().values, thresholds, right=True)
        for side in (members, non_members)
    )
    total = len(members) * len(non_members)
    return (hits * len(non_members) - alarms * len(members)).double() / (2 * total)


def _accuracy(context: Context, network: nn.Module, split: str, classes: tuple[int, ...]) -> float:
    outputs = context.outputs(network, split)
    found = mean_over(per_class(outputs, len(context.class_names)), classes)
    assert isinstance(found, float)  # it was asked for before whether there are images
    return found


def _attack(context: Context) -> float | Absent:
    found = [
        attack_accuracy(own(members), own(others), context.generator("halves of the attack", k))
        for k, members, others in _sides(context, context.unlearned)
        if min(len(members.labels), len(others.labels)) > 1
    ]
    if not found:
        return Absent("no forgotten class has two training and two test images to attack")
    return statistics.fmean(found)


def _area(context: Context, network: nn.Module) -> float | Absent:
    from sklearn.metrics import roc_auc_score

    found = []
    for _, members, others in _sides(context, network):
        truth = [1] * len(members.labels) + [0] * len(others.labels)
        found.append(float(roc_auc_score(truth, torch.cat([own(members), own(others)]))))
    return statistics.fmean(found) if found else NO_PAIR


def _sides(context: Context, network: nn.Module) -> list[tuple[int, Outputs, Outputs]]:
    train, test = (context.outputs(network, split) for split in ("train", "test"))
    return sides(train, test, context.forget)


def _tow(context: Context) -> Values:
    if not context.oracles:
        return dict.fromkeys(("tow", "tow_mia"), NO_ORACLE)
    networks = (context.unlearned, *context.oracles)
    forgotten = [_accuracy(context, network, "train", context.forget) for network in networks]
    rest = [
        [_accuracy(context, network, split, context.retained) for network in networks]
        for split in ("train", "test")
    ]
    areas = [_area(context, network) for network in networks]
    known = [area for area in areas if isinstance(area, float)]

    def product(firsts: list[float]) -> float:
        score = 1.0
        for model, *oracles in (firsts, *rest):
            score *= 1 - abs(model - statistics.fmean(oracles))
        return score

    return {"tow": product(forgotten), "tow_mia": product(known) if known else NO_PAIR}
