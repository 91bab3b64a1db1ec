"""How fast a class comes back: the attacks that no masked answer survives."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import nn

from geniu_lightning.evaluation.attacks.fine_tuning import (
    Batch,
    accuracy_at,
    area,
    few_shot,
    fine_tune,
    forgotten,
    has_forgotten,
    reset_rows,
    retained,
    shown,
    some_of,
    spread,
)
from geniu_lightning.evaluation.context import Context, Part
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.references import EPSILON_AREA

STEPS = (0, 1, 2, 5, 10, 20, 50)  # of fine-tuning, at which accuracies are read
NO_TRAIN = Absent("the run has no training images of the forgotten classes")
NO_PROXIES = Absent("the method keeps no proxies")


class _Attack(Metric):
    """What the attacks share: which test images are scored, and how a model is fine-tuned.

    Adam on a copy of the model, batch-norm statistics kept, no augmentation. Every model sees the
    same images in the same order. (SGD with momentum at the usual rates diverges where statistics
    are kept and the class is far from the answers, so it would compare explosions.)

    Args:
        steps: At which steps accuracies are read, beginning with 0.
        rate: Learning rate.
        draws: How many draws of images the values are means of.
        scored: Test images that are scored, of each forgotten class, and of all retained ones.
    """

    readings: ClassVar[dict[str, MetricInfo]] = {
        "area": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "curve": MetricInfo("oracle"),
        "retain_curve": MetricInfo("oracle"),
    }

    def __init__(
        self,
        steps: Sequence[int] = STEPS,
        rate: float = 1e-3,
        draws: int = 3,
        scored: int = 300,
    ) -> None:
        self.steps = list(steps)
        self.rate = rate
        self.draws = draws
        self.scored = scored

    def curves(
        self,
        context: Context,
        batches: Callable[[int], Iterator[Batch]],
        *,
        rate: float | None = None,
        draws: int | None = None,
        begin: Callable[[nn.Module, int], None] = lambda network, draw: None,
    ) -> tuple[list[float], list[float]]:
        """Return A_f and A_r at each of the steps, means over draws.

        Args:
            context: Its ``unlearned`` model is attacked.
            batches: Of a draw, endless.
            rate: Learning rate in place of the attack's own.
            draws: Their number, likewise.
            begin: Done to the copy before the first step.
        """
        found = []
        test = context.splits["test"]
        scored = [
            some_of(test, classes, self.scored, context.generator("scored"))
            for classes in ([k] for k in context.forget)
        ]
        others = spread(test, context.retained, self.scored, context.generator("scored"))
        for draw in range(self.draws if draws is None else draws):
            network = context.copy_of(context.unlearned)
            begin(network, draw)
            readings = [
                (
                    statistics.fmean(accuracy_at(network, test, positions) for positions in scored),
                    accuracy_at(network, test, others),
                )
                for _ in fine_tune(network, batches(draw), self.steps, rate or self.rate)
            ]
            found.append(readings)
        return (
            [statistics.fmean(draw[k][0] for draw in found) for k in range(len(self.steps))],
            [statistics.fmean(draw[k][1] for draw in found) for k in range(len(self.steps))],
        )

    def values(self, name: str, curves: tuple[list[float], list[float]]) -> Values:
        """Return curves and area under a name."""
        forget, retain = curves
        return {
            f"{name}area": area(self.steps, forget),
            f"{name}curve": list(forget),
            f"{name}retain_curve": list(retain),
        }

    def images(self, context: Context, batch: int, curves: int) -> int:
        """Return the work of curves with batches of a size."""
        scored = self.scored * (len(context.forget) + 1) * len(self.steps)
        return curves * (3 * self.steps[-1] * batch + scored)


class KShot(_Attack):
    """Fine-tunes on k images of each forgotten class beside as many retained ones a step.

    For each k the accuracy on forgotten test images after 0 to 50 steps (``curve``), the area under
    it over log(1 + step), normalised to [0, 1], and the retained accuracy (``retain_curve``). For
    ``k10`` also with a tenth of the rate and with ten times it (``slow``, ``fast``; one draw).

    Towards the oracles' curve: they learn the class too, anew. Blind to what a head hides from
    gradients: a bias of -10⁴ saturates its row, see `Adaptive`.

    Args:
        shots: The values of k.
        **settings: Those of all attacks.

    Source:
        Relearn time: Golatkar et al., arXiv 1911.04933; as curves, with several k, ours.
    """

    def __init__(self, shots: Sequence[int] = (1, 5, 10, 50), **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base's own
        self.shots = list(shots)

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if not has_forgotten(context):
            return {"area": NO_TRAIN}
        found: Values = {}
        for k in self.shots:
            for name, factor in (("", 1.0), ("slow.", 0.1), ("fast.", 10.0)):
                if factor == 1 or k == 10:
                    curves = self.curves(
                        context,
                        few_shot(context, k),
                        rate=self.rate * factor,
                        draws=self.draws if factor == 1 else 1,
                    )
                    found |= self.values(f"k{k}.{name}", curves)
        return found

    def work(self, context: Context) -> int:
        """Return the images of all curves."""
        sides = 2 * len(context.forget)
        return sum(
            self.images(context, sides * k, self.draws + (2 if k == 10 else 0)) for k in self.shots
        )


class RetainOnly(_Attack):
    """Fine-tunes on retained images alone: does the class come back by itself?

    Ideal: 0 throughout, as with oracles.

    Args:
        batch: Images in a step.
        **settings: Those of all attacks.

    Source:
        Benign relearning, arXiv 2406.13356; for classes ours.
    """

    def __init__(self, batch: int = 20, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base's own
        self.batch = batch

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if "train" not in context.splits:
            return {"area": NO_TRAIN}
        curves = self.curves(context, lambda draw: retained(context, self.batch, draw))
        return self.values("", curves)

    def work(self, context: Context) -> int:
        """Return the images of all curves."""
        return self.images(context, self.batch, self.draws)


class Adaptive(_Attack):
    """Resets the forgotten head rows first, then fine-tunes as `KShot`.

    Each forgotten row is set to the direction of the mean feature of k images, with the retained
    rows' mean norm and mean bias: no gradient has to find its way through a saturated row. An
    oracle's features separate unseen classes too, so the recall alone says little; but its new row
    also takes retained images. So what is read is A_f minus what A_r lost: before the first step
    (``net``) and the area under it over the steps (``net_area``). A mask has what the original has.

    Args:
        shots: k.
        **settings: Those of all attacks.

    Source:
        Ours; nearest to the classification of features in arXiv 2604.08271.
    """

    readings: ClassVar[dict[str, MetricInfo]] = {
        **_Attack.readings,
        "start": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "start_retain": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "net": MetricInfo("oracle", epsilon=EPSILON_AREA),
        "net_area": MetricInfo("oracle", epsilon=EPSILON_AREA),
    }

    def __init__(self, shots: int = 10, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base's own
        self.shots = shots

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if not has_forgotten(context):
            return {"net": NO_TRAIN}

        def reset(network: nn.Module, draw: int) -> None:
            reset_rows(network, *shown(context, self.shots, draw))

        forget, retain = self.curves(context, few_shot(context, self.shots), begin=reset)
        before = accuracy_at(
            context.unlearned,
            context.splits["test"],
            spread(
                context.splits["test"], context.retained, self.scored, context.generator("scored")
            ),
        )
        net = [back - (before - kept) for back, kept in zip(forget, retain, strict=True)]
        return {
            "start": forget[0],
            "start_retain": retain[0],
            "net": net[0],
            "net_area": area(self.steps, net),
            "curve": list(forget),
            "retain_curve": list(retain),
        }

    def work(self, context: Context) -> int:
        """Return the images of all curves."""
        return self.images(context, 2 * self.shots * len(context.forget), self.draws)


class OwnProxies(_Attack):
    """Fine-tunes on the proxies that the method keeps, no real image: what the system still knows.

    Oracles are attacked with the same proxies: only what comes back faster than there was inside.

    Args:
        **settings: Those of all attacks.

    Source:
        Ours.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"proxies"})

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if context.proxies is None:
            return {"area": NO_PROXIES}
        gone = torch.isin(context.proxies.labels.cpu(), torch.tensor(context.forget))
        if not gone.any():
            return {"area": Absent("no proxies of forgotten classes are kept")}
        images, labels = context.proxies.images, context.proxies.labels

        def batches(draw: int) -> Iterator[Batch]:
            stream = context.generator("own proxies", draw)
            kept = (~gone).nonzero().flatten()
            while True:
                order = kept[torch.randperm(len(kept), generator=stream)]
                chosen = torch.cat([gone.nonzero().flatten(), order[: int(gone.sum())]])
                yield images[chosen.to(images.device)], labels[chosen.to(labels.device)]

        return self.values("", self.curves(context, batches))

    def work(self, context: Context) -> int:
        """Return the images of all curves."""
        if context.proxies is None:
            return 0
        gone = torch.isin(context.proxies.labels.cpu(), torch.tensor(context.forget))
        return self.images(context, 2 * int(gone.sum()), self.draws)


class RelearnTime(_Attack):
    """Counts the mini-batches of forgotten images until the class is known as before.

    ``steps`` is the first step, counted from 0, at which A_f on scored test images is at least
    (1 - alpha) of the original's; a model that needs more than ``budget`` has none. ``ain`` is its
    ratio to the mean of the oracles'. Ideal 1; below: knowledge was left; far above: scarred.

    Args:
        alpha: Tolerance.
        budget: Most steps that are made.
        batch: Forgotten images in a step.
        **settings: Those of all attacks.

    Source:
        Anamnesis index: Chundawat et al., arXiv 2201.05629. Departures: steps in place of epochs,
        the oracles' mean, and censoring is said, where a first index of nothing would be 0.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"original"})
    readings: ClassVar[dict[str, MetricInfo]] = {
        "steps": MetricInfo("oracle", epsilon=1.0),
        "ain": MetricInfo("oracle", 1.0, epsilon=0.5),
    }

    def __init__(
        self,
        alpha: float = 0.05,
        budget: int = 100,
        batch: int = 64,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base's own
        self.alpha = alpha
        self.budget = budget
        self.batch = batch

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if not has_forgotten(context):
            return {"steps": NO_TRAIN}
        test = context.splits["test"]
        scored = [
            some_of(test, [k], self.scored, context.generator("scored")) for k in context.forget
        ]

        def known(network: nn.Module) -> float:
            return statistics.fmean(accuracy_at(network, test, positions) for positions in scored)

        target = (1 - self.alpha) * known(context.original)
        counts = []
        for draw in range(self.draws):
            network = context.copy_of(context.unlearned)
            batches = forgotten(context, self.batch, draw)
            for step in fine_tune(network, batches, range(self.budget + 1), self.rate):
                if known(network) >= target:
                    counts.append(step)
                    break
            else:
                return {"steps": Absent(f"not relearned within {self.budget} steps")}
        return {"steps": statistics.fmean(counts)}

    def conclude(self, own: Values, oracles: Sequence[Values]) -> Values:
        """Return the ratio to the oracles, or on which side of what it lies."""
        steps = own.get("steps")
        theirs = [row["steps"] for row in oracles if "steps" in row]
        known = sorted(value for value in theirs if isinstance(value, float))
        if not theirs or steps == NO_TRAIN:
            return {"ain": Absent("there are no oracles to compare with")}
        if not isinstance(steps, float):
            if len(known) < len(theirs):
                return {"ain": Absent("neither the model nor every oracle relearned in time")}
            mean = statistics.fmean(known)
            above = f"above {self.budget / mean:.2f}" if mean else "above any number"
            return {"ain": Absent(f"{above}: not relearned within {self.budget} steps")}
        if 2 * len(known) <= len(theirs):
            below = f"below {steps / self.budget:.2f}"
            return {"ain": Absent(f"{below}: oracles needed more than {self.budget} steps")}
        whole = len(known) == len(theirs)
        # the oracles that are not through are the slowest, so the middle one is known
        middle = statistics.median([*known, *[math.inf] * (len(theirs) - len(known))])
        reference = statistics.fmean(known) if whole else middle
        if not reference or math.isinf(reference):
            return {"ain": Absent("oracles know the class at once, or half of them never")}
        return {"ain": steps / reference}

    def work(self, context: Context) -> int:
        """Return the images if a third of the budget is used."""
        return self.draws * self.budget * (3 * self.batch + self.scored) // 3
