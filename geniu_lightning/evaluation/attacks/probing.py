"""Recovery of a class from features: a linear probe and nearest class means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs, drawn, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import mean_over, shares
from geniu_lightning.settings.checked import NonNegativeInt, Positive, PositiveInt, checked

PER_CLASS = 200  # training images of each class that are fitted on, at most
DRAWS = 3
RESOLUTION = 1e-6  # a smaller relative spread of 32-bit features is rounding
CLOSE_COSINES = 1e-9  # smaller differences of cosines are rounding
TOLERANCE = 1e-6  # of the solver; on equal features it leaves logits about as far apart
CLOSE_LOGITS = 100 * TOLERANCE
NO_PROXIES = Absent("no proxies are stored with the model")
NO_FORGOTTEN_PROXIES = Absent("no proxies of forgotten classes are stored with the model")
RECALLS = {"recall": MetricInfo("oracle"), "retain": MetricInfo("oracle")}


@checked
@dataclass(frozen=True)
class Probe(Metric):
    """Linear classifier, trained anew on frozen features of training images of all classes.

    Multinomial logistic regression with an L2 penalty and classes weighted by 1/n_c, on features
    standardised by the images it is fitted on. `recall` is the share of a forgotten class's test
    images that it gets right, mean over these classes, `retain` the same over retained classes.
    `net` is `recall` minus the share of retained images that it takes for the class. Chance is 1/K,
    and 0 for `net`; an oracle is far above it, as good features also separate classes never seen.

    Retained training images are memorised, in oracles too, and a probe fitted on them gives all
    space between them to the class: `recall` is then near 1 in every model, and `net` differs.

    Source:
        Alain and Bengio, Understanding intermediate layers using linear classifier probes, arXiv
        1610.01644. For unlearning: Are We Truly Forgetting?, arXiv 2503.06991.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {**RECALLS, "net": MetricInfo("oracle")}

    strength: Positive = 1.0  # inverse of the penalty's weight, scikit-learn's `C`
    per_class: PositiveInt = PER_CLASS

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        parts = fit_and_score(context, self.per_class)
        if isinstance(parts, Absent):
            return dict.fromkeys(self.infos, parts)
        fit, score = parts
        scores = probe(fit.features, fit.labels, score.features, self.strength)
        table = answered(scores, score.labels, CLOSE_LOGITS)
        taken = table[list(context.retained)].nanmean(dim=0)
        net = {"net": mean_over(table.diagonal() - taken, context.forget)}
        return summary(table.diagonal(), context) | net


@checked
@dataclass(frozen=True)
class Prototype(Metric):
    """Nearest class mean by cosine: recovery without an optimiser.

    The prototype of class c is μ_c = mean of h/‖h‖ over k training images of c; a test image goes
    to the class with the largest cos(h, μ_c), ties divided. `k1`, `k5`, …: means over three draws
    of k images; `all`: of the images that the probe is fitted on; `proxies`: of the proxies stored
    with the model.

    Source:
        Snell et al., Prototypical Networks for Few-shot Learning, arXiv 1703.05175, equation 1.
        Departure: unit features and cosines in place of squared distances.
    """

    needs = frozenset({"proxies"})
    infos = RECALLS

    shots: Annotated[Sequence[NonNegativeInt], Field(min_length=1)] = (1, 5, 0)  # 0: all
    per_class: PositiveInt = PER_CLASS

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        groups = {f"k{k}" if k else "all": k for k in self.shots}
        parts = fit_and_score(context, self.per_class)
        if isinstance(parts, Absent):
            return {f"{group}.{name}": parts for group in [*groups, "proxies"] for name in RECALLS}
        fit, score = parts
        found = {group: self._shots(k, fit, score, context) for group, k in groups.items()}
        found["proxies"] = self._proxies(score, context)
        return {f"{group}.{name}": v for group, row in found.items() for name, v in row.items()}

    def _shots(self, shots: int, fit: Outputs, score: Outputs, context: Context) -> Values:
        fewest = int(torch.bincount(fit.labels).min())
        if fewest < shots:
            few = Absent(f"a class has only {fewest} images to fit on, fewer than {shots}")
            return dict.fromkeys(RECALLS, few)
        draws = []
        pools = [(fit.labels == k).nonzero().flatten() for k in range(len(context.class_names))]
        for draw in range(DRAWS if shots else 1):
            streams = (context.generator("prototype", draw, k) for k in range(len(pools)))
            pairs = zip(pools, streams, strict=True)
            rows = torch.cat([drawn(pool, shots or None, stream) for pool, stream in pairs])
            means = prototypes(fit.features[rows], fit.labels[rows])
            draws.append(recalls(cosines(score.features, means), score.labels, CLOSE_COSINES))
        return summary(torch.stack(draws).mean(dim=0), context)

    def _proxies(self, score: Outputs, context: Context) -> Values:
        if context.proxies is None:
            return dict.fromkeys(RECALLS, NO_PROXIES)
        shown = set(context.proxies.labels.tolist())
        lacking = [name for k, name in enumerate(context.class_names) if k not in shown]
        if lacking:
            none = Absent(f"there are no proxies of {', '.join(lacking)}")
            return dict.fromkeys(RECALLS, none)
        own = outputs_of(context.unlearned, context.proxies.split)
        scores = cosines(score.features, prototypes(own.features, own.labels))
        return summary(recalls(scores, score.labels, CLOSE_COSINES), context)


def fitted_positions(context: Context, per_class: int = PER_CLASS) -> Tensor | Absent:
    """Return positions in `train` to fit on: at most `per_class` of each class.

    The same for every model. All test images are scored.
    """
    for split in ("test", "train"):
        if split not in context.splits:
            return Absent(f"the run has no {split} images")
    train, classes = context.splits["train"], len(context.class_names)
    if torch.bincount(train.labels, minlength=classes).min() < 2:
        return Absent("a class has fewer than two training images to fit on")
    pools = [train.positions_of((k,)) for k in range(classes)]
    return torch.cat(
        [drawn(pool, per_class, context.generator("fit", k)) for k, pool in enumerate(pools)]
    )


def fit_and_score(context: Context, per_class: int) -> tuple[Outputs, Outputs] | Absent:
    """Return the evaluated model's outputs on the images to fit on and on those to score."""
    positions = fitted_positions(context, per_class)
    if isinstance(positions, Absent):
        return positions
    fit = context.outputs(context.unlearned, "train").at(positions)
    score = context.outputs(context.unlearned, "test")
    if not (fit.features.isfinite().all() and score.features.isfinite().all()):
        return Absent("features are not all finite numbers")
    return fit, score


def answered(scores: Tensor, labels: Tensor, within: float) -> Tensor:
    """Return the share of each true class (row) that goes to each class, float64, `(K, K)`.

    Scores `(N, K)` that are `within` reach of a row's largest share the answer with it. Rows of
    classes without images are NaN.
    """
    largest = scores.max(dim=1, keepdim=True).values
    answers = shares(torch.where(scores >= largest - within, largest, scores))
    sums = torch.zeros(scores.shape[1], scores.shape[1], dtype=torch.float64)
    counts = torch.bincount(labels, minlength=scores.shape[1])
    return sums.index_add_(0, labels, answers) / counts[:, None]


def recalls(scores: Tensor, labels: Tensor, within: float) -> Tensor:
    """Return the recall of each class, float64, shape `(K,)`; NaN for one without images."""
    return answered(scores, labels, within).diagonal()


def probe(features: Tensor, labels: Tensor, others: Tensor, strength: float) -> Tensor:
    """Return logits `(M, K)`, float64, of a logistic regression of labels on features `(N, D)`.

    All are 0 if the features do not vary. `others`, `(M, D)`, are answered for.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    varies = spread > RESOLUTION * mean.abs()
    if not varies.any():
        # the penalty leaves every weight at 0, and balanced classes leave the biases equal
        return torch.zeros(len(others), int(labels.max()) + 1, dtype=torch.float64)
    known, asked = (((x.double() - mean) / spread)[:, varies].numpy() for x in (features, others))
    model = LogisticRegression(C=strength, class_weight="balanced", tol=TOLERANCE, max_iter=1000)
    logits = torch.from_numpy(model.fit(known, labels.numpy()).decision_function(asked))
    return torch.stack([-logits, logits], dim=1) / 2 if logits.dim() == 1 else logits


def prototypes(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean unit feature of each class 0 to K-1, float64, shape `(K, D)`."""
    directions = unit(features)
    return torch.stack([directions[labels == k].mean(dim=0) for k in range(int(labels.max()) + 1)])


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return cosines of rows `(N, D)` with rows `(M, D)`, float64, shape `(N, M)`."""
    return unit(first) @ unit(second).T


def unit(rows: Tensor) -> Tensor:
    """Return rows `(N, D)` at length 1, float64; zeros stay zeros."""
    lengths = rows.double().norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def summary(each: Tensor, context: Context) -> Values:
    """Return the mean recall over forgotten classes, and over retained ones."""
    return {
        "recall": mean_over(each, context.forget),
        "retain": mean_over(each, context.retained),
    }
