"""Mixtures of Gaussians fitted to the latent codes of a class."""

import numpy as np
import torch
from torch import Tensor

from geniu_lightning.kit.mixture import Mixture
from geniu_lightning.models.latent import Codes

IMAGES_PER_PART = 100  # fewer do not tell a part from chance


def mixture_of(codes: Codes, parts: int, seed: int) -> Mixture:
    """Return the mixture of at most `parts` Gaussians of a class's codes, one or more.

    Codes are assigned to parts by a mixture with diagonal covariances. Each part has the mean of
    its codes and their covariance, shrunk to a multiple of the identity as far as their number
    asks (Ledoit & Wolf, Journal of Multivariate Analysis 88, 2004), plus the mean variance that the
    encoder gives a code: a decoder is trained on draws, and a single image has no other spread.

    No other class has a part in it, so that to leave the mixture out is to delete the class.
    """
    from sklearn.covariance import ledoit_wolf
    from sklearn.mixture import GaussianMixture

    means = codes.mean.double().cpu().numpy()
    variances = codes.log_variance.double().exp().cpu().numpy()
    count = max(1, min(parts, len(means) // IMAGES_PER_PART))
    assigned = np.zeros(len(means), dtype=int)
    if count > 1:
        mixture = GaussianMixture(count, covariance_type="diag", random_state=seed % 2**32)
        assigned = mixture.fit_predict(means)
    found = []
    for part in np.unique(assigned):  # one may have stayed empty
        chosen = assigned == part
        noise = np.diag(variances[chosen].mean(axis=0))
        spread = ledoit_wolf(means[chosen])[0] if chosen.sum() > 1 else 0.0
        factor = np.linalg.cholesky(spread + noise)
        found.append((chosen.mean(), means[chosen].mean(axis=0), factor))
    shares, centres, factors = (np.stack(x) for x in zip(*found, strict=True))
    return Mixture(_half(shares), _half(centres), _half(factors))


def _half(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(numbers)).half()
