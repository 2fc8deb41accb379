"""The Gaussian process of the score, with a kernel for sizes in layers.

Shapes: N points, D features, L layers, B blocks, T training hyper-parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import gpytorch
import numpy as np
import torch
from botorch.exceptions import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior, NormalPrior
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm

from autopeft.searching.known_cost.one_thread import one_thread

#: Hyper-parameters by name, as plain numbers: what a fit leaves for the next one.
Fit = Mapping[str, Sequence[float]]
#: Scores [N] at features [N, D].
Trend = Callable[[np.ndarray], np.ndarray]

_STEPS = 60
#: Variance that every observation is given: as gpytorch does.
_JITTER = 1e-6


class LayeredMatern(Kernel):
    """Matern-5/2 over B blocks of L sizes, then T training hyper-parameters: features [N, B * L + T].

    A block has one length scale for all layers, and differences of neighbouring layers are correlated by `rho` ** |i -
    j|: a size that moves to the next layer is a small change, and what is learned of a method in one layer counts for
    the next. With a length scale for each of some fifty sizes a few dozen trials are too few.
    """

    has_lengthscale = False

    def __init__(self, blocks: int, layers: int, training: int) -> None:
        super().__init__()
        self._shape = (blocks, layers)
        self.register_parameter("log_lengths", torch.nn.Parameter(torch.full((blocks + training,), 0.5)))
        self.register_prior("lengths_prior", NormalPrior(0.5, 1.0), lambda kernel: kernel.log_lengths)
        self.register_parameter("raw_rho", torch.nn.Parameter(torch.tensor(0.0)))
        self.register_constraint("raw_rho", Interval(0.05, 0.95))
        distance = torch.arange(layers)
        self.register_buffer("_distance", (distance[:, None] - distance[None]).abs().double())

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **_: object) -> torch.Tensor:
        """Covariances [N1, N2], or [N] on the diagonal."""
        if diag:
            return torch.ones(x1.shape[:-1], dtype=x1.dtype)
        a, b = self.scaled(x1), self.scaled(x2)
        squares = a.pow(2).sum(-1)[..., :, None] + b.pow(2).sum(-1)[..., None, :] - 2 * a @ b.transpose(-1, -2)
        # Away from 0, where the root has no derivative.
        r = squares.clamp_min(1e-12).sqrt() * math.sqrt(5)
        return (1 + r + r.pow(2) / 3) * torch.exp(-r)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Features by their length scales: the covariance is a function of distances between these."""
        blocks, layers = self._shape
        sizes = x[..., : blocks * layers].unflatten(-1, (blocks, layers))
        rho = self.raw_rho_constraint.transform(self.raw_rho)
        root = torch.linalg.cholesky(rho**self._distance) / math.sqrt(layers)
        lengths = self.log_lengths.exp()
        sizes = (sizes @ root) / lengths[:blocks, None]
        return torch.cat([sizes.flatten(-2), x[..., blocks * layers :] / lengths[blocks:]], dim=-1)


def spread_of(scores: np.ndarray) -> float:
    """The standard deviation of scores; 1 where they are equal but for rounding."""
    deviation = float(scores.std())
    return deviation if deviation > 1e-9 * (1 + abs(float(scores.mean()))) else 1.0


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern-5/2 between scaled features: [N1, N2]."""
    squares: np.ndarray = a @ (-2 * b.T)
    # In place: what is allocated anew takes as long as what is computed.
    squares += (a * a).sum(1)[:, None]
    squares += (b * b).sum(1)
    np.maximum(squares, 1e-12, out=squares)
    squares *= 5
    r = np.sqrt(squares)
    squares /= 3
    squares += r
    squares += 1
    np.negative(r, out=r)
    squares *= np.exp(r, out=r)
    return squares


@dataclass(frozen=True)
class Data:
    """Features [N, B * L + T], scores [N] (larger is better), and the variance [N] that is known to be in each score
    beside the noise that all have: 0 for a finished training of a point.
    """

    features: np.ndarray
    scores: np.ndarray
    variances: np.ndarray
    shape: tuple[int, int, int]


class Surrogate:
    """A fitted Gaussian process. Double precision; scores are standardised within.

    `fit` continues from an earlier one; with `steps` 0 that one is taken as it is. `trend` is a mean function of
    features: the process is of what scores are beside it.
    """

    def __init__(self, data: Data, fit: Fit | None = None, steps: int = _STEPS, trend: Trend | None = None) -> None:
        self._data, self._trend = data, trend
        self._scores = data.scores - (trend(data.features) if trend else 0.0)
        self._center, self._scale = float(self._scores.mean()), spread_of(self._scores)
        self._model = self._made(fit)
        if steps:
            self._optimise(steps)
        self._model.eval()

    @property
    def fitted(self) -> dict[str, list[float]]:
        """The hyper-parameters, for the next fit."""
        return {name: p.detach().reshape(-1).tolist() for name, p in self._model.named_parameters()}

    def posterior(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [N] of the noiseless score at features [N, D]."""
        cross = self._outputscale * _matern(self._scaled(features), self._known)
        inverse, weights = self._solved
        mean = self._center + self._scale * (self._mean + cross @ weights)
        # The product cross @ inverse.T, half of which is zeros.
        half = dtrmm(1.0, inverse, cross.T, lower=1, overwrite_b=1).T
        variance = np.maximum(self._outputscale - np.einsum("ij,ij->i", half, half), 1e-10)
        return mean + (self._trend(features) if self._trend else 0.0), self._scale * np.sqrt(variance)

    def own(self, index: np.ndarray) -> np.ndarray:
        """The mean noiseless score [M] of the observations with these numbers, whatever is known of their neighbours.

        Variances that are known count as what an observation differs by from the process at its features: with f ~
        N(m, K + V) and y = f + noise, the mean of f given y is y - noise (K + V + noise)^-1 (y - m).
        """
        return self._data.scores[index] - self._scale * self._noise * self._solved[1][index]

    def own_draws(self, index: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Noiseless scores [count, M] of those observations, drawn together from the posterior."""
        inverse, noise, drawn = self._solved[0][:, index], self._noise, rng.standard_normal((count, len(index)))
        covariance = noise * np.eye(len(index)) - noise**2 * inverse.T @ inverse
        root = np.linalg.cholesky(covariance + _JITTER * np.eye(len(index)))
        draws: np.ndarray = self.own(index) + self._scale * drawn @ root.T
        return draws

    @property
    def noise(self) -> float:
        """The standard deviation of the noise that all scores have."""
        return self._scale * math.sqrt(self._noise)

    def leave_one_out(self) -> np.ndarray:
        """The mean score [N] that the others predict for each observation. Rasmussen and Williams 2006, equation 5.12.

        Hyper-parameters are those fitted to all of them.
        """
        inverse, weights = self._solved
        return self._data.scores - self._scale * weights / (inverse**2).sum(axis=0)

    def with_pending(self, features: np.ndarray) -> Self:
        """The same with points that are being trained, as if they came out at their mean: what is still unknown there
        shrinks, and what is known elsewhere stays (Ginsbourger et al. 2010, the kriging believer).
        """
        if not len(features):
            return self
        mean, _ = self.posterior(features)
        more = Data(
            np.concatenate([self._data.features, features]),
            np.concatenate([self._data.scores, mean]),
            np.concatenate([self._data.variances, np.zeros(len(features))]),
            self._data.shape,
        )
        # Hyper-parameters and standardisation stay what they are.
        believer = copy(self)
        believer._data, believer._scores = more, more.scores - (self._trend(more.features) if self._trend else 0.0)
        for derived in ("_known", "_solved"):
            vars(believer).pop(derived, None)
        return believer

    # From here on plain arrays: what gpytorch wraps around products of this size costs more than they do.

    @cached_property
    def _outputscale(self) -> float:
        return float(self._model.covar_module.outputscale.item())

    @cached_property
    def _noise(self) -> float:
        return float(self._model.likelihood.second_noise.item()) + _JITTER

    @cached_property
    def _mean(self) -> float:
        return float(self._model.mean_module.constant.item())

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = features @ self._scaling
        return scaled

    @cached_property
    def _scaling(self) -> np.ndarray:
        """The kernel's scaling of features as a matrix: it is linear."""
        with torch.no_grad():
            unit = torch.eye(self._data.features.shape[1], dtype=torch.double)
            matrix: np.ndarray = self._model.covar_module.base_kernel.scaled(unit).numpy()
        return matrix

    @cached_property
    def _known(self) -> np.ndarray:
        return self._scaled(self._data.features)

    @cached_property
    def _solved(self) -> tuple[np.ndarray, np.ndarray]:
        """(The inverse of the Cholesky factor of the observations' covariance, its solution for their scores)."""
        noise = self._noise + self._data.variances / self._scale**2
        covariance = self._outputscale * _matern(self._known, self._known) + np.diag(noise)
        inverse = np.asfortranarray(solve_triangular(np.linalg.cholesky(covariance), np.eye(len(noise)), lower=True))
        residual = (self._scores - self._center) / self._scale - self._mean
        return inverse, inverse.T @ (inverse @ residual)

    def _made(self, fit: Fit | None) -> SingleTaskGP:
        data = self._data
        x = torch.from_numpy(data.features)
        y = torch.from_numpy((self._scores - self._center) / self._scale)[:, None]
        # `second_noise` is learned, and added to what is known of each observation.
        likelihood = FixedNoiseGaussianLikelihood(
            noise=torch.from_numpy(data.variances / self._scale**2).clamp_min(_JITTER),
            learn_additional_noise=True,
            noise_prior=LogNormalPrior(-3.0, 1.0),
            noise_constraint=GreaterThan(1e-4, initial_value=0.05),
        )
        kernel = ScaleKernel(LayeredMatern(*data.shape), outputscale_prior=LogNormalPrior(0.0, 1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SingleTaskGP(x, y, likelihood=likelihood, covar_module=kernel.double(), outcome_transform=None)
        for name, parameter in model.double().named_parameters():
            if fit and name in fit:
                parameter.data = torch.tensor(fit[name], dtype=torch.double).reshape(parameter.shape)
        return model

    def _optimise(self, steps: int) -> None:
        """Maximum a posteriori by L-BFGS; where that fails, the hyper-parameters stay what they were."""
        before = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        mll = ExactMarginalLogLikelihood(self._model.likelihood, self._model)
        try:
            with one_thread(), warnings.catch_warnings(), gpytorch.settings.fast_computations(log_prob=False):
                warnings.simplefilter("ignore")
                fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": steps}}, max_attempts=1)
        except (ModelFittingError, RuntimeError):
            for name, parameter in self._model.named_parameters():
                parameter.data = before[name]
