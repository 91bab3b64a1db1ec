"""What features still know of a class that the answers no longer name."""

import math
import statistics
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import Context, Outputs, Proxies, Split, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import mean_over, per_class

FEWEST = 5  # held-out training images of each class that are enough to fit on
DRAWS = 3
RESOLUTION = 1e-6  # a relative spread of 32-bit features below this is rounding
CLOSE_COSINES = 1e-9  # cosines that are nearer to each other than this differ by rounding
TOLERANCE = 1e-6  # of the solver; on equal features it leaves logits about as far apart
CLOSE_LOGITS = 100 * TOLERANCE
READINGS = {"recall": MetricInfo("oracle"), "retain": MetricInfo("oracle")}


class Probe(Metric):
    """Linear classifier, trained anew on frozen features of all classes.

    Multinomial logistic regression with an L2 penalty and classes weighted by 1/n_c, on features
    standardised by the images it is fitted on; `fit_and_score_positions` says which.

    - ``recall``: share of a forgotten class's images that it gets right, mean over these classes.
    - ``retain``: the same over retained classes.

    Chance is 1/K, which constant features have exactly. An oracle is far above it: good features
    also separate classes never seen. So only recall above the oracles' is memory. Blind to traces
    that are not linear, and to what is lost between the features and the answers.

    Args:
        strength: Of the fit: inverse of the penalty's weight, scikit-learn's ``C``.

    Source:
        Alain and Bengio, Understanding intermediate layers using linear classifier probes, arXiv
        1610.01644. For unlearning: Are We Truly Forgetting?, arXiv 2503.06991.
    """

    readings = READINGS

    def __init__(self, strength: float = 1.0) -> None:
        if not strength > 0:
            raise UserError(f"strength must be above 0, got {strength}")
        self.strength = strength

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        parts = fit_and_score(context)
        if isinstance(parts, Absent):
            return dict.fromkeys(READINGS, parts)
        fit, score = parts
        scores = probe(fit.features, fit.labels, score.features, self.strength)
        return summary(recalls(scores, score.labels, CLOSE_LOGITS), context)


class Prototype(Metric):
    """Nearest class mean by cosine: recovery without an optimiser.

    The prototype of class c is μ_c = mean of h/‖h‖ over k images of c; an image goes to the class
    with the largest cos(h, μ_c). A feature vector of zeros has cosine 0 with everything. Ties are
    divided. The images are those of `Probe`.

    - ``k1.recall``, ``k5.recall``, ...: share of a forgotten class's images that go to it, mean
      over these classes and over three draws of k images; ``all``: of all that may be fitted on.
    - ``proxies.recall``: with prototypes of the proxies that the method keeps.
    - ``....retain``: the same over retained classes.

    Read beside the oracles: theirs is above chance, as for `Probe`. Blind to what an average
    hides, such as a class in several clusters or one that small directions tell apart.

    Args:
        shots: Numbers k of images a class; 0 takes all.

    Source:
        Snell et al., Prototypical Networks for Few-shot Learning, arXiv 1703.05175, equation 1.
        Departure: unit features and cosines in place of squared distances.
    """

    needs = frozenset({"proxies"})
    readings = READINGS

    def __init__(self, shots: tuple[int, ...] | list[int] = (1, 5, 0)) -> None:
        if not all(k >= 0 for k in shots):
            raise UserError(f"shots must not be negative, got {list(shots)}")
        self.shots = tuple(shots)

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        groups = {f"k{k}" if k else "all": k for k in self.shots}
        parts = fit_and_score(context)
        if isinstance(parts, Absent):
            return {f"{group}.{name}": parts for group in [*groups, "proxies"] for name in READINGS}
        fit, score = parts
        found = {group: self._shots(k, fit, score, context) for group, k in groups.items()}
        found["proxies"] = self._proxies(score, context)
        return {f"{group}.{name}": v for group, row in found.items() for name, v in row.items()}

    def _shots(self, shots: int, fit: Outputs, score: Outputs, context: Context) -> Values:
        fewest = int(torch.bincount(fit.labels).min())
        if fewest < shots:
            few = Absent(f"a class has only {fewest} images to fit on, fewer than {shots}")
            return dict.fromkeys(READINGS, few)
        draws = []
        for draw in range(DRAWS if shots else 1):
            rows = torch.cat(
                [
                    _draw(fit.labels == k, shots, context.generator("prototype", draw, k))
                    for k in range(len(context.class_names))
                ]
            )
            means = prototypes(fit.features[rows], fit.labels[rows])
            scores = cosines(score.features, means)
            draws.append(recalls(scores, score.labels, CLOSE_COSINES))
        return summary(torch.stack(draws).mean(dim=0), context)

    def _proxies(self, score: Outputs, context: Context) -> Values:
        if context.proxies is None:
            return dict.fromkeys(READINGS, Absent("the method keeps no proxies"))
        shown = set(context.proxies.labels.tolist())
        lacking = [name for k, name in enumerate(context.class_names) if k not in shown]
        if lacking:
            none = Absent(f"no proxies are kept of {', '.join(lacking)}")
            return dict.fromkeys(READINGS, none)
        kept = outputs_on_proxies(context.unlearned, context.proxies)
        scores = cosines(score.features, prototypes(kept.features, kept.labels))
        return summary(recalls(scores, score.labels, CLOSE_COSINES), context)


class CKA(Metric):
    """Similarity of feature geometries by debiased linear centred kernel alignment.

    - ``test_forget.original``, ``test_forget.oracle``: with the original, and with an oracle (mean
      over these), on test images of a forgotten class, mean over these classes.
    - ``test_retain.original``, ``test_retain.oracle``: on test images of retained classes together.

    At most 1; 1 is the same geometry up to rotation and scale. What is to be reached is the pair of
    values that an oracle has. A high value with the original is no proof of memory, as oracles have
    it too. Blind to small directions, even to those that decide an answer.

    Args:
        images: At most so many of each forgotten class, and of retained classes together.

    Source:
        Kornblith et al., Similarity of Neural Network Representations Revisited, arXiv 1905.00414,
        with the unbiased estimate of `cka_debiased`.
    """

    needs = frozenset({"original", "oracles"})
    readings: ClassVar[dict[str, MetricInfo]] = {
        "original": MetricInfo("oracle"),
        "oracle": MetricInfo("oracle"),
    }

    def __init__(self, images: int = 1000) -> None:
        if images < 4:
            raise UserError(f"images must be at least 4, got {images}")
        self.images = images

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        others = {"original": (context.original,), "oracle": context.oracles}
        return {
            f"{group}.{name}": self._mean(context, sets, networks)
            for group, sets in (
                ("test_forget", tuple((k,) for k in context.forget)),
                ("test_retain", (context.retained,)),
            )
            for name, networks in others.items()
        }

    def _mean(
        self, context: Context, sets: tuple[tuple[int, ...], ...], others: tuple[nn.Module, ...]
    ) -> float | Absent:
        if not others:
            return Absent("there is no oracle to compare with")
        if not sets or "test" not in context.splits:
            return Absent("there is no test image of such a class")
        found = []
        for classes in sets:
            mine = torch.isin(context.splits["test"].labels, torch.tensor(classes))
            if mine.sum() < 4:
                return Absent("a class has fewer than 4 test images")
            rows = _draw(mine, min(self.images, int(mine.sum())), context.generator("cka"))
            judged = context.outputs(context.unlearned, "test").features[rows]
            for other in others:
                found.append(cka_debiased(judged, context.outputs(other, "test").features[rows]))
        if any(math.isnan(value) for value in found):
            return Absent("features of a model do not vary among these images, or are not finite")
        return statistics.fmean(found)


def fit_and_score_positions(context: Context) -> tuple[str, Tensor, Tensor] | Absent:
    """Choose images that neither the model nor, where they are scored, the fit has seen.

    Fitted on is the whole of ``validation``, if it has five images of every class, and scored the
    whole of ``test``. Else each class's test images are halved, by a draw that is the same for
    every model; an odd one is scored.

    Returns:
        The split to fit on, positions in it, and positions in ``test`` to score.
    """
    if "test" not in context.splits:
        return Absent("the run has no test images")
    test, classes = context.splits["test"], len(context.class_names)
    held_out = context.splits.get("validation")
    if held_out is not None and _fewest(held_out.labels, classes) >= FEWEST:
        return "validation", torch.arange(len(held_out.labels)), torch.arange(len(test.labels))
    if _fewest(test.labels, classes) < 2:
        return Absent("a class has fewer than two test images, one to fit on and one to score")
    fit = torch.zeros(len(test.labels), dtype=torch.bool)
    for k in range(classes):
        mine = test.labels == k
        fit[_draw(mine, int(mine.sum()) // 2, context.generator("halves", k))] = True
    return "test", fit.nonzero().flatten(), (~fit).nonzero().flatten()


def fit_and_score(context: Context) -> tuple[Outputs, Outputs] | Absent:
    """Return what the judged model says of the images to fit on and of those to score."""
    parts = fit_and_score_positions(context)
    if isinstance(parts, Absent):
        return parts
    fit = _rows(context.outputs(context.unlearned, parts[0]), parts[1])
    score = _rows(context.outputs(context.unlearned, "test"), parts[2])
    if not (fit.features.isfinite().all() and score.features.isfinite().all()):
        return Absent("features are not all finite numbers")
    return fit, score


def outputs_on_proxies(network: nn.Module, proxies: Proxies) -> Outputs:
    """Return what a network says of proxies, in their order."""
    labels = proxies.labels.cpu()
    return outputs_of(network, Split(labels, lambda positions: proxies.images[positions]))


def recalls(scores: Tensor, labels: Tensor, within: float) -> Tensor:
    """Return the recall of each class, float64, shape ``(K,)``; NaN for one without images.

    Args:
        scores: The largest of a row is the answer, shape ``(N, K)``.
        labels: int64, shape ``(N,)``.
        within: Scores that are this near to the largest share the answer with it.
    """
    largest = scores.max(dim=1, keepdim=True).values
    levelled = torch.where(scores >= largest - within, largest, scores)
    return per_class(Outputs(levelled, levelled[:, :0], labels), scores.shape[1])


def probe(features: Tensor, labels: Tensor, others: Tensor, strength: float) -> Tensor:
    """Return logits of a logistic regression.

    Args:
        features: To fit on, shape ``(N, D)``.
        labels: Of them, int64, every class 0 to K-1 among them, shape ``(N,)``.
        others: Features to answer for, shape ``(M, D)``.
        strength: Inverse weight of the L2 penalty.

    Returns:
        float64, shape ``(M, K)``; all 0 if the features to fit on do not vary.
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
    """Return the mean unit feature of each class.

    Args:
        features: Shape ``(N, D)``.
        labels: int64, every class 0 to K-1 among them, shape ``(N,)``.

    Returns:
        float64, shape ``(K, D)``.
    """
    directions = unit(features)
    return torch.stack([directions[labels == k].mean(dim=0) for k in range(int(labels.max()) + 1)])


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return cosines of rows ``(N, D)`` with rows ``(M, D)``, float64, shape ``(N, M)``."""
    return unit(first) @ unit(second).T


def unit(rows: Tensor) -> Tensor:
    """Return rows ``(N, D)`` at length 1, float64; zeros stay zeros."""
    lengths = rows.double().norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def cka(first: Tensor, second: Tensor) -> float:
    """Return linear CKA: ‖A'B‖² / (‖A'A‖ ‖B'B‖), Frobenius norms of centred features.

    Biased upwards where images are few beside dimensions. Source: arXiv 1905.00414.

    Args:
        first: Features A of N images, shape ``(N, D)``.
        second: Features B of the same images, shape ``(N, E)``.

    Returns:
        In [0, 1]; NaN where features do not vary.
    """
    return _aligned(first, second, lambda products: products)


def cka_debiased(first: Tensor, second: Tensor) -> float:
    """Return linear CKA from unbiased estimates of the three inner products.

    Each is Σ_{i≠j} of U-centred Gram matrices' products; 0 is expected of unrelated features, and
    below 0 can come out. Arguments as `cka`.

    Returns:
        In [-1, 1]; NaN where features do not vary, or with fewer than four images.

    Source:
        Song et al., Feature Selection via Dependence Maximization, JMLR 2012 (the estimate);
        Nguyen et al., Do Wide and Deep Networks Learn the Same Things?, arXiv 2010.15327 (in CKA).
    """
    return _aligned(first, second, u_centred)


def u_centred(products: Tensor) -> Tensor:
    """Return a symmetric matrix ``(N, N)`` with rows that sum to 0 without the diagonal, N > 3."""
    count = len(products)
    apart = products - products.diagonal().diag()
    sums = apart.sum(dim=0)
    found = apart - (sums[:, None] + sums) / (count - 2)
    found += sums.sum() / ((count - 1) * (count - 2))
    return found.fill_diagonal_(0.0)


def _aligned(first: Tensor, second: Tensor, prepared: Callable[[Tensor], Tensor]) -> float:
    matrices = []
    for features in (first.double(), second.double()):
        centred = features - features.mean(dim=0)
        if not centred.norm() > RESOLUTION * features.norm():
            return math.nan
        centred = centred / centred.norm()
        matrix = prepared(centred @ centred.T)
        if not matrix.norm() > RESOLUTION**2:
            return math.nan
        matrices.append(matrix / matrix.norm())
    return float((matrices[0] * matrices[1]).sum())


def _draw(mine: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return some of the places where ``mine`` is true, drawn; 0 returns all."""
    places = mine.nonzero().flatten()
    return places[torch.randperm(len(places), generator=generator)[: count or None]]


def _rows(outputs: Outputs, rows: Tensor) -> Outputs:
    return Outputs(outputs.logits[rows], outputs.features[rows], outputs.labels[rows])


def _fewest(labels: Tensor, classes: int) -> int:
    return int(torch.bincount(labels, minlength=classes).min())


def summary(each: Tensor, context: Context) -> Values:
    """Return the mean recall over forgotten classes, and over retained ones."""
    return {
        "recall": mean_over(each, context.forget),
        "retain": mean_over(each, context.retained),
    }
