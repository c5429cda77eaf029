"""One DDIM step, with the variance that the net predicts for its own estimate.

Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502. A DDIM step puts the estimate E[x0|zt] in the
place of x0, so what is not known about x0 is lost at every step; the fewer the steps, the more. Bao et al., "Estimating
the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models", arXiv 2206.07309, give the variance that
a step must have instead, for any DDIM: its own lambda^2 and a share of Var[x0|zt].
"""

import math

import torch
from torch import Tensor

from jeppa.errors import ConfigError


def ddim_variance(alpha_bar_t: float, alpha_bar_prev: float, eta: float) -> float:
    """Variance of the fresh noise in one step: eta^2 (1-a_prev)/(1-a_t) (1 - a_t/a_prev), a for alpha_bar.

    Args:
        alpha_bar_t: in [0, 1], at the step's start.
        alpha_bar_prev: in [0, 1], at its end; nearer to 1 than `alpha_bar_t` when denoising.
        eta: 0 (deterministic) to 1 (ancestral sampling as in DDPM).

    Raises:
        ConfigError: if `eta` is outside [0, 1] or not a number, or above 0 in a step that adds noise back.

    Source: arXiv 2010.02502, eq. 16.
    """
    check_eta(eta)
    # At the clean end there is no noise to replace, and the quotients of eq. 16 may be 0/0.
    if eta == 0.0 or alpha_bar_prev == 1.0:
        return 0.0
    if alpha_bar_prev < alpha_bar_t:
        raise ConfigError(
            f"eta is {eta} in a step from alpha_bar {alpha_bar_t} to {alpha_bar_prev}, which does not "
            "denoise: use eta 0 to go back towards noise"
        )
    kept = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar_t)
    return eta**2 * kept * (1.0 - alpha_bar_t / alpha_bar_prev)


def x0_share(alpha_bar_t: float, alpha_bar_prev: float, variance: float) -> float:
    """How far a change of the estimate of x0 moves the result of a step, at fixed zt.

    c = sqrt(a_prev) - sqrt(a_t) sqrt((1 - a_prev - variance) / (1 - a_t)): what x0 adds, less what the eps that follows
    from x0 takes away. It is 1 for a step to the clean latent, and near 0 for a small one.

    Args:
        alpha_bar_t: in [0, 1), at the step's start.
        alpha_bar_prev: in [0, 1], at its end.
        variance: of the fresh noise, see `ddim_variance`.

    Source: Bao et al., arXiv 2201.06503, theorem 1, with lambda^2 for `variance`.
    """
    kept = (1.0 - alpha_bar_prev - variance) / (1.0 - alpha_bar_t)
    return math.sqrt(alpha_bar_prev) - math.sqrt(alpha_bar_t * kept)


def ddim_step(
    x0: Tensor,
    eps: Tensor,
    alpha_bar_t: float,
    alpha_bar_prev: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
    x0_variance: Tensor | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """One DDIM step from the estimates at t to the latent at the previous timestep.

    sqrt(a_prev) x0 + sqrt(1 - a_prev - lambda^2) eps + sigma noise, with a for alpha_bar, lambda^2 the value of
    `ddim_variance`, c that of `x0_share` and

        sigma^2 = lambda^2 + temperature^2 c^2 Var[x0|zt].

    Given x0 and eps, the latent zt that they were estimated from is not needed. Variance leaves the mean as it is.

    Args:
        x0: estimate of the clean latent, `[B,C,h,w]`.
        eps: estimate of the noise, same shape.
        alpha_bar_t: in [0, 1]; 0 is pure noise.
        alpha_bar_prev: in [0, 1]; 1 returns x0, with a draw of its uncertainty if `x0_variance` is given.
        eta: 0 to 1.
        noise: standard normal, same shape; needed when the variance is above 0.
        x0_variance: Var[x0|zt], same shape, see `Prediction.x0_variance`; None for plain DDIM.
        temperature: factor of the learned part's deviation, at least 0: 0 is plain DDIM, 1 the optimal variance. A
            tensor that broadcasts to x0 sets it place by place.

    Raises:
        ConfigError: see `ddim_variance`, and if the variance is above 0 and `noise` is missing.

    Source: arXiv 2010.02502, eq. 12; arXiv 2201.06503, theorem 1; arXiv 2206.07309 (one variance for each element).
    """
    variance = ddim_variance(alpha_bar_t, alpha_bar_prev, eta)
    # At eta 1 and alpha_bar_t 0 the difference is exactly 0: squaring a rounded sigma would take it below.
    direction = math.sqrt(1.0 - alpha_bar_prev - variance)
    mean = math.sqrt(alpha_bar_prev) * x0 + direction * eps
    learned = x0_variance is not None and is_warm(temperature)
    if variance == 0.0 and not learned:
        return mean
    if noise is None:
        why = f"eta is {eta}" if variance > 0.0 else f"temperature is {temperature}"
        raise ConfigError(f"{why}, which adds noise in each step: pass noise, or set eta and temperature to 0")
    if x0_variance is None or not learned:
        return mean + math.sqrt(variance) * noise
    share = x0_share(alpha_bar_t, alpha_bar_prev, variance)
    return mean + (variance + (temperature * share) ** 2 * x0_variance).sqrt().to(mean) * noise


def check_eta(eta: float) -> None:
    """Refuse an eta that is no number from 0 to 1.

    Raises:
        ConfigError: it is not.
    """
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(
            f"eta is {eta}, but must lie in 0 to 1: use 0 (deterministic) or 1 (fresh noise in each step)"
        )


def is_warm(temperature: float | Tensor) -> bool:
    """Whether the temperature is above 0 at any place, so that the learned variance has a part in a step."""
    return bool(torch.as_tensor(temperature).any())


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse a temperature that is negative, infinite or not a number, at any place.

    Raises:
        ConfigError: it is.
    """
    values = torch.as_tensor(temperature)
    if not bool((values.isfinite() & (values >= 0.0)).all()):
        shown = temperature if values.ndim == 0 else f"{float(values.min())} to {float(values.max())}"
        raise ConfigError(
            f"temperature is {shown}, but must be 0 or more: use 0 (plain DDIM) or 1 (the optimal variance)"
        )
