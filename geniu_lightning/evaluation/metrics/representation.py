"""Similarity of a model's features to those of the original and of oracles."""

import math
import statistics
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, drawn
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import NO_ORACLE
from geniu_lightning.settings.checked import checked

RESOLUTION = 1e-6  # a smaller relative spread of 32-bit features is rounding


@checked
@dataclass(frozen=True)
class CKA(Metric):
    """Similarity of feature geometries by debiased linear centred kernel alignment.

    With the `original`, and with an `oracle` (mean over these), on test images of a forgotten
    class, mean over these classes (`test_forget`), and of retained classes together
    (`test_retain`). 1 is the same geometry up to rotation and scale. Oracles, too, are similar to
    the original.

    Source:
        Kornblith et al., Similarity of Neural Network Representations Revisited, arXiv 1905.00414,
        with the unbiased estimate of `cka_debiased`.
    """

    needs = frozenset({"original", "oracles"})
    infos: ClassVar[dict[str, MetricInfo]] = dict.fromkeys(
        ("original", "oracle"), MetricInfo("oracle")
    )

    images: Annotated[int, Field(ge=4)] = 1000  # most of each group

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
            return NO_ORACLE
        if not sets or "test" not in context.splits:
            return Absent("there is no test image of such a class")
        found = []
        for classes in sets:
            mine = context.splits["test"].positions_of(classes)
            if len(mine) < 4:
                return Absent("a class has fewer than 4 test images")
            rows = drawn(mine, self.images, context.generator("cka"))
            own = context.outputs(context.unlearned, "test").features[rows]
            for other in others:
                found.append(cka_debiased(own, context.outputs(other, "test").features[rows]))
        if any(math.isnan(value) for value in found):
            return Absent("features of a model do not vary among these images, or are not finite")
        return statistics.fmean(found)


def cka_debiased(first: Tensor, second: Tensor) -> float:
    """Return linear CKA of features `(N, D)` and `(N, E)` from unbiased estimates, in [-1, 1].

    Each of its three inner products is Σ_{i≠j} of U-centred Gram matrices' products; 0 is expected
    of unrelated features. NaN where features do not vary, or with fewer than four images.

    Source:
        Song et al., Feature Selection via Dependence Maximization, JMLR 2012 (the estimate);
        Nguyen et al., Do Wide and Deep Networks Learn the Same Things?, arXiv 2010.15327 (in CKA).
    """
    matrices = []
    for features in (first.double(), second.double()):
        centred = features - features.mean(dim=0)
        if not centred.norm() > RESOLUTION * features.norm():
            return math.nan
        centred = centred / centred.norm()
        matrix = u_centred(centred @ centred.T)
        if not matrix.norm() > RESOLUTION**2:
            return math.nan
        matrices.append(matrix / matrix.norm())
    return float((matrices[0] * matrices[1]).sum())


def u_centred(products: Tensor) -> Tensor:
    """Return a symmetric matrix `(N, N)` with rows that sum to 0 without the diagonal, N > 3."""
    count = len(products)
    apart = products - products.diagonal().diag()
    sums = apart.sum(dim=0)
    found = apart - (sums[:, None] + sums) / (count - 2)
    found += sums.sum() / ((count - 1) * (count - 2))
    return found.fill_diagonal_(0.0)
