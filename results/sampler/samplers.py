"""The samplers that the study compares, ours and the two rivals of diffusers, at a number of net evaluations."""

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
"""With more steps the last one has hardly any variance left to draw."""
KNOB_STEPS = 10


@dataclass(frozen=True)
class Sampler:
    """One way to sample.

    Args:
        title: as the tables name it; a rival's is a key of `RIVALS`.
        steps: evaluations of the net (guidance doubles them).
        eta: of DDIM.
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
        """Of its files."""
        return f"{self.title.replace(' ', '-').replace(',', '')}-{self.steps}"


def rows() -> list[Sampler]:
    """The main table."""
    found = [Sampler("plain", 20)]
    found += [Sampler("learned, last drawn", steps, temperature=1.0, last=True) for steps in LAST_DRAWN]
    for steps in EVALUATIONS:
        found += [
            Sampler("plain", steps),
            Sampler("eta 1", steps, eta=1.0),
            Sampler("learned", steps, temperature=1.0),
            *(Sampler(rival, steps) for rival in RIVALS),
        ]
    return found


def knobs() -> list[Sampler]:
    """What the curves of quality and diversity need beside the main table."""
    return [
        Sampler("temperature 0.5", KNOB_STEPS, temperature=0.5),
        Sampler("temperature 1.5", KNOB_STEPS, temperature=1.5),
        Sampler("eta 0.5", KNOB_STEPS, eta=0.5),
        Sampler("guidance 2", KNOB_STEPS, guidance=2.0),
        Sampler("guidance 4", KNOB_STEPS, guidance=4.0),
    ]


def steps_of(
    sampler: Sampler, model: Model, denoise: Denoise, z_t: Tensor, generators: list[torch.Generator]
) -> Iterator[SamplerStep]:
    """Our sampler, step by step."""
    settings = DDIM(sampler.steps, sampler.eta, temperature=sampler.temperature, last=sampler.last)
    return sample_ddim(denoise, z_t, model.schedule, settings, generators)


@torch.no_grad()
def rival_sample(sampler: Sampler, model: Model, denoise: Denoise, zt: Tensor) -> Tensor:
    """The sample, `[B,C,h,w]`, of a scheduler of diffusers with our schedule and its own defaults otherwise."""
    scheduler = RIVALS[sampler.title].from_config(model.schedule.config)
    scheduler.set_timesteps(sampler.steps)
    for t in scheduler.timesteps:
        v = denoise(zt, torch.full((len(zt),), int(t), dtype=torch.long)).mean
        zt = scheduler.step(v, t, zt).prev_sample
    return zt
