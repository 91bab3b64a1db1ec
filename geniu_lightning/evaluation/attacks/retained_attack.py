"""Two-model test on the probabilities of retained classes."""

import statistics
import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.membership import auc
from geniu_lightning.evaluation.context import Context, log_softmax
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import lacking
from geniu_lightning.evaluation.references import EPSILON_AREA
from geniu_lightning.settings.checked import PositiveInt, checked


@checked
@dataclass(frozen=True)
class RetainedAttack(Metric):
    """Accuracy of a classifier that tells the model from an oracle by retained probabilities.

    On the test images of all forgotten classes, with q the probabilities renormalised over retained
    classes, so that the forgotten logits are hidden from the attack.

    - `auc`: `attack` on log q, mean over oracles, in [0, 1].
    - `distance`: `distance` between the mean q, mean over oracles, in [0, 1].

    Any two models differ: one oracle is told from another well above 0.5.

    Source: that neighbouring classes betray the forgotten one, arXiv 2506.20893; the two-model
    form is a classifier two-sample test, arXiv 1610.06545.

    Blind to features and head, to the forgotten logits, and, being linear, to differences that no
    linear rule on log q shows.

    Args:
        folds: Parts of the images; each is scored by a rule fitted on the others.
        images: Most images that the classifier sees, the same for all models. The distance takes
            all.
    """

    needs = frozenset({"oracles"})
    infos: ClassVar[dict[str, MetricInfo]] = {
        "auc": MetricInfo("oracle", None, EPSILON_AREA),
        "distance": MetricInfo("oracle", None, EPSILON_AREA),
    }

    folds: Annotated[int, Field(ge=2)] = 5
    images: PositiveInt = 1000

    def __post_init__(self) -> None:
        if self.folds > self.images:
            raise SettingError(f"must be at most images={self.images}, got {self.folds}", "folds")

    def __call__(self, context: Context) -> Values:
        """Attack the model with each oracle."""
        nothing = self._lacking(context)
        if nothing is not None:
            return dict.fromkeys(self.infos, nothing)
        ours, *theirs = (
            retained_logs(
                context.outputs(network, "test").of(context.forget).logits, context.retained
            )
            for network in (context.unlearned, *context.oracles)
        )
        distances = [distance(ours, oracle) for oracle in theirs]
        values: Values = {"distance": statistics.fmean(distances)}
        order = torch.randperm(len(ours), generator=context.generator("retained attack"))
        drawn = order[: self.images]
        if len(drawn) < self.folds:
            few = f"{self.folds} folds need as many images of forgotten classes"
            return values | {"auc": Absent(f"{few}, there are {len(drawn)}")}
        folds = torch.arange(len(drawn)) % self.folds
        areas = [attack(ours[drawn], oracle[drawn], folds) for oracle in theirs]
        return values | {"auc": statistics.fmean(areas)}

    def _lacking(self, context: Context) -> Absent | None:
        if len(context.retained) < 2:
            return Absent("with fewer than two retained classes nothing is left to compare")
        if not context.oracles:
            return Absent("there is no oracle to compare with")
        return lacking(context, "test", context.forget)


def retained_logs(logits: Tensor, retained: tuple[int, ...]) -> Tensor:
    """Return log q over retained classes, float64, nats, finite, shape `(N, R)`.

    Args:
        logits: Finite, shape `(N, K)`.
        retained: Indices of R classes.
    """
    return log_softmax(logits[:, list(retained)])


def attack(ours: Tensor, theirs: Tensor, folds: Tensor) -> float:
    """Return the area under the ROC curve of a logistic regression that tells two models apart.

    Both rows of an image are in one fold, so that no rule is scored on an image that it was fitted
    on, and both sides of each fold are equally large, so that scores of folds are comparable.

    Args:
        ours: Features of images in one model, shape `(N, R)`.
        theirs: Of the same images in another, shape `(N, R)`.
        folds: Fold of each image, shape `(N,)`, at least two different ones.

    Returns:
        In [0, 1], of the out-of-fold scores; exactly 0.5 for equal models.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = torch.zeros(2, len(ours), dtype=torch.float64)
    for fold in folds.unique():
        held = folds == fold
        rows = torch.cat([ours[~held], theirs[~held]]).numpy()
        origin = [1] * int((~held).sum()) + [0] * int((~held).sum())
        # few features and many rows: Newton's steps are few and cheap
        rule = make_pipeline(
            StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8)
        )
        with warnings.catch_warnings():
            # its line search may end in rounding; the fallback fits the same rule
            warnings.filterwarnings(
                "ignore", ".*resort to lbfgs instead", category=ConvergenceWarning
            )
            rule.fit(rows, origin)
        for side, features in enumerate((ours, theirs)):
            scores[side, held] = torch.from_numpy(rule.decision_function(features[held].numpy()))
    return auc(scores[0], scores[1])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the total variation ½ Σ |mean q - mean q'|, in [0, 1].

    Args:
        ours: log q of images in one model, shape `(N, R)`.
        theirs: In another, shape `(N, R)`.
    """
    return float((ours.exp().mean(dim=0) - theirs.exp().mean(dim=0)).abs().sum() / 2)
