"""The variance-aware DDIM as a diffusers scheduler, for pipelines that are not ours.

    pipe.scheduler = HeteroscedasticDDIMScheduler.from_config(pipe.scheduler.config)

Without `eps_logvar` a step is plain DDIM, so every pipeline that takes `DDIMScheduler` takes this one unchanged. The
arithmetic is that of `jeppa.diffusion.ddim`; within jeppa, `sample_ddim` is the sampler.
"""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.diffusion.ddim import check_eta, check_temperature, ddim_step, is_warm
from jeppa.diffusion.prediction import Prediction, add_noise, check_kind, target
from jeppa.diffusion.schedule import Spacing, Timesteps, timesteps
from jeppa.distributions import standard_normal
from jeppa.errors import ConfigError


class HeteroscedasticDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM that takes the log-variance of the predicted noise into its steps.

    The settings are those of `diffusers.DDIMScheduler` under the same names; defaults differ where its own are wrong
    for latents (no clipping, trailing spacing). Those of the betas must not differ: `from_config` passes on nothing
    that the other scheduler had left at its default. Two settings are new.

    Args:
        num_train_timesteps: timesteps T of the training schedule.
        beta_start: variance added at the first timestep.
        beta_end: variance added at the last one.
        beta_schedule: linear, scaled_linear or squaredcos_cap_v2.
        trained_betas: the variances themselves, `[T]`, instead of the three above.
        clip_sample: clamp the estimate of x0; for pixels, not for latents.
        set_alpha_to_one: whether the last step ends at the clean latent, or at timestep 0.
        steps_offset: added to the timesteps of leading spacing.
        prediction_type: epsilon, v_prediction or sample.
        thresholding: refused, since it is for pixels.
        clip_sample_range: largest absolute value when clipping.
        timestep_spacing: trailing, leading or linspace.
        rescale_betas_zero_snr: whether to rescale to a terminal signal-to-noise ratio of zero.
        data_variance: bound for Var[x0|xt], the variance of the data; 1 for standardised latents.
        draw_last: whether the learned variance is drawn in the last step too, which adds its noise to the sample.

    Raises:
        ConfigError: if `thresholding` is set or `prediction_type` unknown.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - as diffusers declares it
    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | Sequence[float] | None = None,
        clip_sample: bool = False,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionKind = "epsilon",
        thresholding: bool = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: Spacing = "trailing",
        rescale_betas_zero_snr: bool = False,
        data_variance: float = 1.0,
        draw_last: bool = False,
    ) -> None:
        check_kind(prediction_type)
        if thresholding:
            raise ConfigError("thresholding is True, but it clips pixels, not latents: set it to False")
        schedule = DDIMScheduler(
            num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )  # fmt: skip
        self.betas, self.alphas, self.alphas_cumprod = schedule.betas, schedule.alphas, schedule.alphas_cumprod
        self.final_alpha_cumprod = torch.tensor(1.0) if set_alpha_to_one else self.alphas_cumprod[0]
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """`sample` itself: DDIM scales nothing."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps of a run.

        Args:
            num_inference_steps: how many, spaced as the settings say.
            device: where the list is put.
            timesteps: the list itself instead, descending.

        Raises:
            ConfigError: if both or neither are given, the number is out of range, or the list is not descending.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ConfigError("give either num_inference_steps or timesteps, one of them")
        count = len(timesteps) if timesteps is not None else num_inference_steps or 0
        visited = _visited(len(self), count, timesteps or self.config.timestep_spacing, self.config.steps_offset)
        self.num_inference_steps = count
        self.timesteps = torch.tensor(visited, device=device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        eps_logvar: Tensor | None = None,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The latent at the next timestep of the list, from the net's prediction at `timestep`.

        Args:
            model_output: eps, v or x0 as `prediction_type` says, `[B,C,h,w]`.
            timestep: one of `timesteps`.
            sample: the latent that the net was asked about.
            eta: 0 (deterministic) to 1 (ancestral).
            eps_logvar: natural log of the variance of eps given the latent, same shape; None for plain DDIM.
            temperature: factor of the learned part's deviation: 0 is plain DDIM, 1 the optimal variance.
            generator: one, or one for each sample.
            variance_noise: standard normal noise to use instead of drawing it.
            return_dict: whether to return an object with `prev_sample` and `pred_original_sample`, or a tuple.

        Raises:
            ConfigError: if the timesteps are not set, `timestep` is not among them, shapes differ, or eta or
                temperature is out of range.

        Source: arXiv 2010.02502, eq. 12; arXiv 2201.06503, theorem 1; arXiv 2206.07309 (one variance for each element).
        """
        check_eta(eta)
        check_temperature(temperature)
        if eps_logvar is not None and eps_logvar.shape != sample.shape:
            raise ConfigError(
                f"eps_logvar has shape {tuple(eps_logvar.shape)}, but the sample {tuple(sample.shape)}: give it one "
                "value for each element"
            )
        alpha_bar, alpha_bar_prev, last = self._bars_of(int(timestep))
        mean = Prediction(model_output, None, self.config.prediction_type)
        x0, eps = mean.x0(sample, alpha_bar), mean.eps(sample, alpha_bar)
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        known = Prediction(model_output, eps_logvar, "epsilon")
        plain = last and not self.config.draw_last
        variance = None if plain else known.x0_variance(alpha_bar, self.config.data_variance)
        learned = variance is not None and is_warm(temperature)
        noise = variance_noise
        if noise is None and (learned or eta > 0.0):
            noise = standard_normal(sample, generator).to(sample)
        moved = ddim_step(x0, eps, alpha_bar, alpha_bar_prev, eta, noise, variance, temperature)
        return DDIMSchedulerOutput(prev_sample=moved, pred_original_sample=x0) if return_dict else (moved, x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noised latent at `timesteps`, LongTensor `[B]`; see `jeppa.diffusion.add_noise`."""
        return add_noise(original_samples, noise, self._bars()[timesteps.cpu()])

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v of clean latents and noise at `timesteps`; see `jeppa.diffusion.target`."""
        return target("v_prediction", sample, noise, self._bars()[timesteps.cpu()])

    def _bars(self) -> Tensor:
        bars: Tensor = self.alphas_cumprod.double().cpu()
        return bars

    def _bars_of(self, timestep: int) -> tuple[float, float, bool]:
        """alpha_bar at the start and the end of a step, and whether it is the last of the list."""
        if self.num_inference_steps is None:
            raise ConfigError("the timesteps are not chosen yet: call set_timesteps first")
        visited = self.timesteps.tolist()
        if timestep not in visited:
            raise ConfigError(
                f"timestep is {timestep}, which is not in the list of set_timesteps: step over `timesteps`"
            )
        place = visited.index(timestep)
        last = place + 1 == len(visited)
        bars = self._bars()
        after = self.final_alpha_cumprod if last else bars[visited[place + 1]]
        return float(bars[timestep]), float(after), last


def _visited(train_steps: int, count: int, spacing: Timesteps, offset: int) -> list[int]:
    visited = timesteps(train_steps, count, spacing)
    # The whole list of 1000 timesteps leaves no room for an offset.
    room = train_steps - 1 - visited[0]
    return [t + min(offset, room) for t in visited] if spacing == "leading" else visited
