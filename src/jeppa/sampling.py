"""Settings of sampling, without torch: the command line takes its flags and their help from these fields."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jeppa.config import Settings

Variance = Literal["learned", "none"]
VARIANCE: Variance = "none"
"""What is done unless the user says otherwise."""


class DDIMSettings(Settings):
    """What any DDIM must know, also one that runs backwards; a model checks them when it is asked."""

    steps: int = Field(25, description="DDIM steps, 1 to the 1000 of training.")
    label: str | None = Field(None, description="Class name, for a model with classes.")
    resolution: int | None = Field(
        None, description="Side in pixels, a multiple of 8; by default that of the denoiser's training, for a VAE 256."
    )


class SamplerSettings(DDIMSettings):
    """How pictures are drawn."""

    eta: float = Field(0.0, description="0 (deterministic) to 1 (fresh noise in each step).")
    guidance: float = Field(1.0, description="Weight of classifier-free guidance; 1 is none.")
    variance: Variance = Field(
        VARIANCE,
        description="learned: each step draws what the denoiser does not know of its estimate; none: plain DDIM.",
    )
    temperature: float = Field(
        1.0, description="Factor of the learned deviation: 0 is plain DDIM, 1 the optimal variance."
    )
    last_draw: bool = Field(
        False, description="Draw the learned variance in the last step too, which leaves its noise in the picture."
    )

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.variance == "none" and (self.temperature != 1.0 or self.last_draw):
            name = "last_draw" if self.last_draw else "temperature"
            raise ValueError(f"{name} is set, but the variance is none: add --variance learned, or leave it out")
        return self
