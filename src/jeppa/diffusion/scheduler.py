"""The variance-aware DDIM as a diffusers scheduler, for pipelines that are not ours.

    pipe.scheduler = HeteroscedasticDDIMScheduler.from_config(pipe.scheduler.config)

Until something says how far off the net's prediction is, this is `diffusers.DDIMScheduler` to the last bit, its faults
included: a picture must not change because the scheduler was exchanged. A log-variance comes in by `eps_logvar`, or as
the second half of a model output of 2C channels (see `jeppa.diffusion.VarianceUNet`), which needs no change to the
pipeline. Within jeppa, `sample_ddim` is the sampler; `exact` gives its arithmetic here.
"""

import inspect
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from jeppa.config import PredictionKind
from jeppa.diffusion.ddim import check_eta, check_temperature, ddim_step, is_warm
from jeppa.diffusion.prediction import Prediction, add_noise, check_kind, target
from jeppa.diffusion.schedule import Spacing, alpha_bars, make_scheduler
from jeppa.diffusion.schedule import timesteps as spaced
from jeppa.distributions import standard_normal
from jeppa.errors import ConfigError


class SchedulerError(ConfigError, ValueError):
    """A bad argument; a ValueError too, as code that was written for diffusers' schedulers expects."""


class HeteroscedasticDDIMScheduler(DDIMScheduler):
    """DDIM that takes the log-variance of the net's prediction into its steps.

    Names, order and defaults of the settings are those of `diffusers.DDIMScheduler`; the last three are new. For
    latents as jeppa trains on them, see `for_latents`.

    It differs from DDIMScheduler, before any variance comes in, where that fails or answers with garbage:

    - An unknown `prediction_type` is refused when the scheduler is made, not at the first step.
    - `eta` outside 0 to 1 is refused; there it can take the root of a negative number, which leaves NaN.
    - A number of steps that is 0, negative or not whole is refused; there 0 divides by zero, and 7.5 makes a list of
      another length.
    - `leading` with an offset at every timestep (1000 of 1000) stays within the schedule; there it is an IndexError.
    - `set_timesteps` takes a list of one's own, which it follows; there it has no such argument.
    - `from_config` keeps what a pipeline has corrected in the config of its DDIM (`steps_offset`, `clip_sample`); there
      it goes back to the default, because the correction is not noted.

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
        thresholding: clamp the estimate of x0 to a quantile of itself; for pixels, not for latents.
        dynamic_thresholding_ratio: that quantile, 0 to 1.
        clip_sample_range: largest absolute value when clipping.
        sample_max_value: largest value of the quantile.
        timestep_spacing: leading, trailing or linspace.
        rescale_betas_zero_snr: whether to rescale to a terminal signal-to-noise ratio of zero.
        data_variance: bound for Var[x0|xt], the variance of the data; 1 for standardised latents.
        draw_last: whether the learned variance is drawn in the last step too, which adds its noise to the sample.
        exact: whether each step ends at the next timestep of the list, with coefficients in float64. DDIMScheduler goes
            T // steps back instead, which misses the list where T / steps is no whole number (issue 9261) and can leave
            noise in the sample; its trailing list ends with a timestep of -1 at some step counts (61, 103, ...); and in
            float32 eta 1 from zero SNR is NaN at 25 and 50 steps.

    Raises:
        ConfigError: if `prediction_type` is unknown.
    """

    # A pipeline's model_index.json names the module of the class, which must stay true when files move.
    __module__ = "jeppa"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | Sequence[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionKind = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Spacing = "leading",
        rescale_betas_zero_snr: bool = False,
        *,
        data_variance: float = 1.0,
        draw_last: bool = False,
        exact: bool = False,
    ) -> None:
        check_kind(prediction_type)
        # Every setting by name: one left out here would be noted as a default, and lost in the next `from_config`.
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            thresholding=thresholding,
            dynamic_thresholding_ratio=dynamic_thresholding_ratio,
            clip_sample_range=clip_sample_range,
            sample_max_value=sample_max_value,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        self._follows_list = exact

    @classmethod
    def for_latents(cls, kind: PredictionKind = "v_prediction", train_steps: int = 1000, **settings: Any) -> Self:
        """For denoisers that jeppa trains: the schedule of `make_scheduler` (trailing, no clipping), `exact`.

        Args:
            kind: what the net predicts; the terminal signal-to-noise ratio is zero unless it is `epsilon`.
            train_steps: timesteps T of the training schedule.
            settings: any other.
        """
        scheduler: Self = cls.from_config(make_scheduler(train_steps, kind=kind).config, **{"exact": True, **settings})
        return scheduler

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """As in diffusers, but what a pipeline has put into the config of its DDIM is not taken for a default."""
        unsaid = config_dict.get("_use_default_values", [])
        # The defaults of other schedulers are not those of ours.
        if config_dict.get("_class_name") in ("DDIMScheduler", cls.__name__):
            defaults = inspect.signature(cls.__init__).parameters
            unsaid = [key for key in unsaid if config_dict[key] == defaults[key].default]
        given = {**config_dict, "_use_default_values": unsaid}
        found: tuple[dict[str, Any], ...] = super().extract_init_dict(given, **kwargs)
        return found

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Iterable[int] | None = None,
    ) -> None:
        """Choose the timesteps of a run.

        Args:
            num_inference_steps: how many, spaced as the settings say.
            device: where the list is put.
            timesteps: the list itself instead, descending: a sequence, array or tensor of whole numbers. Each step then
                ends at the next of them, as with `exact`.

        Raises:
            ConfigError: if both or neither are given, a number is out of range or not whole, or the list is not
                descending.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise SchedulerError("give either num_inference_steps or timesteps, one of them")
        if timesteps is not None:
            visited = [_whole(t, "a timestep") for t in _listed(timesteps)]
            self._visit(spaced(len(self), len(visited), visited), device)
            return
        count = _whole(num_inference_steps, "num_inference_steps")
        if not 1 <= count <= len(self):
            raise SchedulerError(
                f"steps is {count}, but the schedule has {len(self)} timesteps: choose 1 to {len(self)}"
            )
        spacing = self.config.timestep_spacing
        if self.config.exact:
            offset = self.config.steps_offset if spacing == "leading" else 0
            self._visit([t + offset for t in spaced(len(self), count, spacing)], device)
        else:
            self._follows_list = False
            super().set_timesteps(count, device)
        if spacing == "leading":
            # The whole list leaves no room for an offset.
            self.timesteps -= max(0, int(self.timesteps[0]) + 1 - len(self))

    def previous_timestep(self, timestep: int) -> int:
        """Where a step from `timestep` ends; below 0 for the last, which ends at the clean latent.

        Raises:
            ConfigError: if the timesteps are not chosen, or each step ends at the next of the list and `timestep` is
                not among them.
        """
        steps = self._chosen()
        if not self._follows_list:
            return timestep - len(self) // steps
        visited: list[int] = self.timesteps.tolist()
        if timestep not in visited:
            raise SchedulerError(
                f"timestep is {timestep}, which is not in the list of set_timesteps: step over `timesteps`"
            )
        return [*visited, -1][visited.index(timestep) + 1]

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        eps_logvar: Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The latent at the previous timestep, from the net's prediction at `timestep`.

        Args:
            model_output: eps, v or x0 as `prediction_type` says, `[B,C,h,w]`; or `[B,2C,h,w]`, with the natural log of
                the variance of that same quantity given the latent in the second half. A pipeline that guides by
                extrapolation extrapolates both halves.
            timestep: 0 to T-1; with `exact`, one of `timesteps`.
            sample: the latent that the net was asked about, `[B,C,h,w]`.
            eta: 0 (deterministic) to 1 (ancestral).
            use_clipped_model_output: whether eps follows the clipped x0.
            generator: one, or one for each sample.
            variance_noise: standard normal noise to use instead of drawing it.
            return_dict: whether to return an object with `prev_sample` and `pred_original_sample`, or a tuple.
            eps_logvar: natural log of the variance of eps given the latent, shape of `sample`; None for plain DDIM.
            temperature: factor of the learned part's deviation: 0 is plain DDIM, 1 the optimal variance. A tensor that
                broadcasts to the sample sets it place by place.

        Raises:
            ConfigError: if the timesteps are not set, shapes differ, the variance or the noise is given twice, or eta
                or temperature is out of range.

        Source: arXiv 2010.02502, eq. 12; arXiv 2201.06503, theorem 1; arXiv 2206.07309 (one variance for each element).
        """
        check_eta(eta)
        check_temperature(temperature)
        self._chosen()
        mean, known = self._split(model_output, sample, eps_logvar)
        learned = known is not None and is_warm(temperature)
        if not learned and not self._follows_list:
            plain: DDIMSchedulerOutput | tuple[Tensor, Tensor] = super().step(
                mean, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
            )
            return plain
        alpha_bar, alpha_bar_prev, last = self._bars_of(int(timestep))
        quiet = not learned or (last and not self.config.draw_last)
        variance = None if known is None or quiet else known.x0_variance(alpha_bar, self.config.data_variance)
        noise = variance_noise
        if eta > 0.0 or variance is not None:
            if noise is not None and generator is not None:
                raise SchedulerError("generator and variance_noise are both given: leave one of them out")
            noise = standard_normal(sample, generator).to(sample) if noise is None else noise
        if self._follows_list:
            x0, eps = self._estimates(mean, sample, alpha_bar, use_clipped_model_output)
            moved = ddim_step(x0, eps, alpha_bar, alpha_bar_prev, eta, noise, variance, temperature)
        else:
            silent = torch.zeros_like(sample)
            still = super().step(mean, timestep, sample, eta, use_clipped_model_output, variance_noise=silent)
            x0 = still.pred_original_sample
            # Of two estimates that are 0, a step leaves the noise alone.
            drawn = ddim_step(silent, silent, alpha_bar, alpha_bar_prev, eta, noise, variance, temperature)
            moved = still.prev_sample + drawn
        return DDIMSchedulerOutput(prev_sample=moved, pred_original_sample=x0) if return_dict else (moved, x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noised latent at `timesteps`, LongTensor `[B]`; with `exact` as in `jeppa.diffusion.add_noise`."""
        if not self.config.exact:
            noised: Tensor = super().add_noise(original_samples, noise, timesteps)
            return noised
        return add_noise(original_samples, noise, alpha_bars(self)[timesteps.cpu()])

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v of clean latents and noise at `timesteps`; with `exact` as in `jeppa.diffusion.target`."""
        if not self.config.exact:
            velocity: Tensor = super().get_velocity(sample, noise, timesteps)
            return velocity
        return target("v_prediction", sample, noise, alpha_bars(self)[timesteps.cpu()])

    def _visit(self, visited: list[int], device: str | torch.device | None) -> None:
        self._follows_list = True
        self.num_inference_steps = len(visited)
        self.timesteps = torch.tensor(visited, device=device)

    def _chosen(self) -> int:
        if self.num_inference_steps is None:
            raise SchedulerError("the timesteps are not chosen yet: call set_timesteps first")
        return int(self.num_inference_steps)

    def _split(self, output: Tensor, sample: Tensor, eps_logvar: Tensor | None) -> tuple[Tensor, Prediction | None]:
        """The mean of a model output, and what is known of its error."""
        if sample.ndim > 1 and output.shape == (sample.shape[0], 2 * sample.shape[1], *sample.shape[2:]):
            if eps_logvar is not None:
                raise SchedulerError("eps_logvar is given, but the model output has a log-variance too: leave one out")
            if self.config.get("variance_type") in ("learned", "learned_range"):
                raise SchedulerError(
                    f"the model output has a variance of type {self.config.variance_type}, which is no log-variance of "
                    "its error: pass the first half of its channels"
                )
            mean, logvar = output.chunk(2, dim=1)
            return mean, Prediction(mean, logvar, self.config.prediction_type)
        if eps_logvar is None:
            return output, None
        if eps_logvar.shape != sample.shape:
            raise SchedulerError(
                f"eps_logvar has shape {tuple(eps_logvar.shape)}, but the sample {tuple(sample.shape)}: give it one "
                "value for each element"
            )
        return output, Prediction(output, eps_logvar, "epsilon")

    def _bars_of(self, timestep: int) -> tuple[float, float, bool]:
        """alpha_bar at the start and the end of a step, and whether it is the last one."""
        previous = self.previous_timestep(timestep)
        bars = alpha_bars(self)
        after = self.final_alpha_cumprod if previous < 0 else bars[previous]
        return float(bars[timestep]), float(after), previous < 0 or timestep == int(self.timesteps[-1])

    def _estimates(self, mean: Tensor, sample: Tensor, alpha_bar: float, follow_clipped: bool) -> tuple[Tensor, Tensor]:
        """x0, clipped as the settings say, and eps."""
        predicted = Prediction(mean, None, self.config.prediction_type)
        x0, eps = predicted.x0(sample, alpha_bar), predicted.eps(sample, alpha_bar)
        if self.config.thresholding:
            x0 = self._threshold_sample(x0)
        elif self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return x0, Prediction(x0, None, "sample").eps(sample, alpha_bar) if follow_clipped else eps


def _listed(timesteps: Iterable[int]) -> list[int]:
    try:
        return list(timesteps)
    except TypeError:  # one number, or a tensor or an array of one without a dimension
        raise SchedulerError(f"timesteps are {timesteps!r}, but must be a list of whole numbers") from None


def _whole(value: Any, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise SchedulerError(f"{what} is {value!r}, but must be a whole number: round it") from None
