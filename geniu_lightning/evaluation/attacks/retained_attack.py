"""Two-model test on the probabilities of retained classes."""

import statistics
import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.membership import FEW_RETAINED, auc
from geniu_lightning.evaluation.context import Context, log_softmax
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import NO_ORACLE, lacking
from geniu_lightning.evaluation.metrics.confusion import total_variation
from geniu_lightning.evaluation.references import EPSILON_AREA
from geniu_lightning.settings.checked import PositiveInt, checked


@checked
@dataclass(frozen=True)
class RetainedAttack(Metric):
    """Accuracy of a classifier that tells the model from an oracle by retained probabilities.

    On the test images of all forgotten classes, with q the probabilities renormalised over retained
    classes: `auc`, `attack` on log q, and `distance` between the mean q, means over oracles. Any
    two models differ: one oracle is told from another well above 0.5.

    Source: that neighbouring classes betray the forgotten one, arXiv 2506.20893; the two-model
    form is a classifier two-sample test, arXiv 1610.06545.
    """

    needs = frozenset({"oracles"})
    pairwise = True
    infos: ClassVar[dict[str, MetricInfo]] = dict.fromkeys(
        ("auc", "distance"), MetricInfo("oracle", None, EPSILON_AREA)
    )

    folds: Annotated[int, Field(ge=2)] = 5  # each is scored by a rule fitted on the others
    images: PositiveInt = 1000  # most that the classifier sees, the same for all models

    def __post_init__(self) -> None:
        if self.folds > self.images:
            raise SettingError(f"must be at most images={self.images}, got {self.folds}", "folds")

    def __call__(self, context: Context) -> Values:
        """Attack the model with each oracle."""
        retained = list(context.retained)
        nothing = lacking(context, "test", context.forget)
        if not context.oracles:
            nothing = NO_ORACLE
        if len(retained) < 2:
            nothing = FEW_RETAINED
        if nothing is not None:
            return dict.fromkeys(self.infos, nothing)
        ours, *theirs = (
            log_softmax(context.outputs(network, "test").of(context.forget).logits[:, retained])
            for network in (context.unlearned, *context.oracles)
        )
        own = ours.exp().mean(dim=0)
        distances = [total_variation(own, oracle.exp().mean(dim=0)) for oracle in theirs]
        values: Values = {"distance": statistics.fmean(distances)}
        order = torch.randperm(len(ours), generator=context.generator("retained attack"))
        drawn = order[: self.images]
        if len(drawn) < self.folds:
            few = f"{self.folds} folds need as many images of forgotten classes"
            return values | {"auc": Absent(f"{few}, there are {len(drawn)}")}
        folds = torch.arange(len(drawn)) % self.folds
        areas = [attack(ours[drawn], oracle[drawn], folds) for oracle in theirs]
        return values | {"auc": statistics.fmean(areas)}


def attack(ours: Tensor, theirs: Tensor, folds: Tensor) -> float:
    """Return the area under the ROC curve of a logistic regression that tells two models apart.

    Both rows of an image are in one fold, so that no rule is scored on an image that it was fitted
    on, and both sides of each fold are equally large, so that scores of folds are comparable.

    Args:
        ours: Features of images in one model, shape `(N, R)`.
        theirs: Of the same images in another, shape `(N, R)`.
        folds: Fold of each image, shape `(N,)`.
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
