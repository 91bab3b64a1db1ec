"""Relearn time: steps until a class is known again, and the anamnesis index."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from geniu_lightning.evaluation.attacks.fine_tuning import (
    fine_tune,
    forgotten,
    mean_accuracy,
    missing,
    scored_images,
)
from geniu_lightning.evaluation.context import Context, Part
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.settings.checked import Positive, PositiveInt, checked


@checked
@dataclass(frozen=True)
class RelearnTime(Metric):
    """Number of mini-batches of forgotten images until the class is known as before.

    `steps` is the first step, counted from 0, at which A_f on scored test images is at least
    (1 - alpha) of the original's. `ain` is its ratio to the mean of the oracles'; ideal 1, below it
    knowledge was left.

    Source:
        Anamnesis index: Chundawat et al., arXiv 2201.05629. Departures: steps in place of epochs,
        the oracles' mean, and censored counts are absent with their bound, where the paper has 0.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"original"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        "steps": MetricInfo("oracle", epsilon=1.0),
        "ain": MetricInfo("oracle", 1.0, epsilon=0.5),
    }

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.05  # tolerance
    budget: PositiveInt = 100  # largest number of steps
    batch: PositiveInt = 64  # forgotten images in a step
    rate: Positive = 1e-3
    draws: PositiveInt = 3  # of images; `steps` is the mean over them
    scored: PositiveInt = 300  # test images of each forgotten class

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if nothing := missing(context):
            return {"steps": nothing}
        scored, _ = scored_images(context, self.scored)
        target = (1 - self.alpha) * mean_accuracy(context, context.original, scored)
        counts = []
        for draw in range(self.draws):
            network = context.copy_of(context.unlearned)
            batches = forgotten(context, self.batch, draw)
            for step in fine_tune(network, batches, range(self.budget + 1), self.rate):
                if mean_accuracy(context, network, scored) >= target:
                    counts.append(step)
                    break
            else:
                return {"steps": self._unfinished}
        return {"steps": statistics.fmean(counts)}

    @property
    def _unfinished(self) -> Absent:
        return Absent(f"not relearned within {self.budget} steps")

    def compared(self, own: Values, oracles: Sequence[Values]) -> Values:
        """Return the ratio to the oracles, or the bound on it that is known."""
        steps = own.get("steps")
        theirs = [row["steps"] for row in oracles if "steps" in row]
        known = sorted(value for value in theirs if isinstance(value, float))
        if not theirs:
            return {"ain": Absent("there are no oracles to compare with")}
        if isinstance(steps, Absent) and steps != self._unfinished:
            return {"ain": steps}
        if not isinstance(steps, float):
            if len(known) < len(theirs):
                return {"ain": Absent("neither the model nor every oracle relearned in time")}
            mean = statistics.fmean(known)
            above = f"above {self.budget / mean:.2f}" if mean else "above any number"
            return {"ain": Absent(f"{above}: not relearned within {self.budget} steps")}
        if 2 * len(known) <= len(theirs):
            below = f"below {steps / self.budget:.2f}"
            return {"ain": Absent(f"{below}: oracles needed more than {self.budget} steps")}
        # censored oracles are the slowest, so that with fewer than half of them the median is known
        median = statistics.median([*known, *[math.inf] * (len(theirs) - len(known))])
        reference = statistics.fmean(known) if len(known) == len(theirs) else median
        if not reference or math.isinf(reference):
            return {"ain": Absent("oracles know the class at once, or half of them never")}
        return {"ain": steps / reference}

    def images_processed(self, context: Context) -> int:
        """Return the images for a third of the budget."""
        return self.draws * self.budget * (3 * self.batch + self.scored) // 3
