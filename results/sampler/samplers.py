"""The samplers that the study compares, ours and two of diffusers, each at several numbers of net evaluations."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from jeppa.diffusion import DDIM, Denoise, SamplerStep, sample_ddim
from jeppa.pipeline import Model

RIVALS = {"dpm-solver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
EVALUATIONS = (5, 10, 25, 50)
LAST_DRAWN = (5, 10)
"""Evaluations at which the last step is drawn too; with more steps it has hardly any variance left."""
KNOB_STEPS = 10


@dataclass(frozen=True)
class Sampler:
    """One way to sample.

    Args:
        title: its name in the tables; a key of `RIVALS` for a sampler of diffusers.
        steps: evaluations of the net (guidance doubles them).
        eta: of DDIM, 0 to 1.
        temperature: of the learned variance.
        last: whether the last step draws too.
        guidance: weight of classifier-free guidance.
    """

    title: str
    steps: int
    eta: float = 0.0
    temperature: float = 0.0
    last: bool = False
    guidance: float = 1.0

    @property
    def name(self) -> str:
        """Its name in file names."""
        return f"{self.title.replace(' ', '-').replace(',', '')}-{self.steps}"


def list_samplers() -> list[Sampler]:
    """The samplers of the main table."""
    samplers = [Sampler("plain", 20)]
    samplers += [Sampler("learned, last drawn", steps, temperature=1.0, last=True) for steps in LAST_DRAWN]
    for steps in EVALUATIONS:
        samplers += [
            Sampler("plain", steps),
            Sampler("eta 1", steps, eta=1.0),
            Sampler("learned", steps, temperature=1.0),
            *(Sampler(rival, steps) for rival in RIVALS),
        ]
    return samplers


def list_knobs() -> list[Sampler]:
    """Samplers that trade quality for diversity, beside those of the main table."""
    return [
        Sampler("temperature 0.5", KNOB_STEPS, temperature=0.5),
        Sampler("temperature 1.5", KNOB_STEPS, temperature=1.5),
        Sampler("eta 0.5", KNOB_STEPS, eta=0.5),
        Sampler("guidance 2", KNOB_STEPS, guidance=2.0),
        Sampler("guidance 4", KNOB_STEPS, guidance=4.0),
    ]


def run_steps(
    sampler: Sampler, model: Model, denoise: Denoise, z_t: Tensor, generators: list[torch.Generator]
) -> Iterator[SamplerStep]:
    """Our sampler, step by step."""
    settings = DDIM(sampler.steps, sampler.eta, temperature=sampler.temperature, last=sampler.last)
    return sample_ddim(denoise, z_t, model.schedule, settings, generators)


@torch.no_grad()
def run_rival(sampler: Sampler, model: Model, denoise: Denoise, zt: Tensor) -> Tensor:
    """The samples `[B,C,h,w]` of a scheduler of diffusers, which has our noise schedule and its own defaults."""
    scheduler = RIVALS[sampler.title].from_config(model.schedule.config)
    scheduler.set_timesteps(sampler.steps)
    for t in scheduler.timesteps:
        v = denoise(zt, torch.full((len(zt),), int(t), dtype=torch.long)).mean
        zt = scheduler.step(v, t, zt).prev_sample
    return zt
