"""A denoiser with its VAE as a pipeline of diffusers, which `jeppa export --format pipeline` writes.

    pipe = HeteroscedasticPipeline.from_pretrained("exported")
    found = pipe("animals-and-nature", guidance_scale=2.0, generator=[torch.Generator().manual_seed(0)])
    found.images[0], found.sigma[0]

diffusers looks for the class of a pipeline in itself alone, unless the folder has code of its own and the user trusts
it. So an exported folder has a `pipeline.py`, one import, and `model_index.json` names it:

    DiffusionPipeline.from_pretrained("exported", trust_remote_code=True)

The method of the class itself, as above, runs no code of the folder. The parts are under diffusers' names and may be
taken one by one; a pipeline folder is a model for jeppa too.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from jeppa.config import parse
from jeppa.data.images import Levels, sigma_levels, to_pixels
from jeppa.diffusion import DESCRIPTION, Denoiser, DenoiserAbout, make_denoise
from jeppa.distributions import Predictive, standard_normal
from jeppa.errors import ConfigError
from jeppa.pipeline.model import explain_lack_of_memory, texture_generators
from jeppa.vae.codec import Description, LatentCodec, LatentStats, assemble

CODE = "pipeline.py"
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class HeteroscedasticPipelineOutput(BaseOutput):
    """What a call gives.

    Args:
        images: PIL pictures, `[B,H,W,3]` in [0,1], or a tensor `[B,3,H,W]` in [0,1], as `output_type` says.
        sigma: what the decoder is unsure of, for each picture float32 `[H,W]` in 8-bit grey levels.
    """

    images: list[Image.Image] | npt.NDArray[np.float32] | Tensor
    sigma: list[Levels]


class HeteroscedasticPipeline(DiffusionPipeline):
    """Pictures from noise, by class or without, with the learned variance and a sigma map of each.

    The scheduler may be exchanged for another of diffusers; the learned variance needs ours.

    Args:
        vae: the autoencoder.
        unet: the net that predicts eps, v or x0.
        scheduler: see `HeteroscedasticDDIMScheduler.for_latents`.
        sigma_head: for a likelihood that has one.
        texture_head: for texture within sigma.
        variance_head: for a learned variance.
        about: content of `model.json` under `vae` and of `denoiser.json` under `denoiser`.

    Raises:
        ConfigError: the descriptions are not ours, or a part that they name is missing.
    """

    __module__ = "jeppa"
    _optional_components = ["sigma_head", "texture_head", "variance_head"]  # noqa: RUF012 - as diffusers reads it
    model_cpu_offload_seq = "unet->vae"

    def __init__(
        self,
        vae: torch.nn.Module,
        unet: torch.nn.Module,
        scheduler: Any,
        sigma_head: torch.nn.Module | None = None,
        texture_head: torch.nn.Module | None = None,
        variance_head: torch.nn.Module | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, unet=unet, scheduler=scheduler, sigma_head=sigma_head, texture_head=texture_head,
            variance_head=variance_head,
        )  # fmt: skip
        self.register_to_config(about=about)
        described = about or {}
        self._vae_about = parse(Description, described.get("vae", {}), "model_index.json, vae")
        self._about = parse(DenoiserAbout, described.get("denoiser", {}), "model_index.json, denoiser")
        self._codec()

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty for a model without classes."""
        return self._about.labels

    @torch.no_grad()
    def __call__(
        self,
        label: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        variance: Literal["learned", "none"] = "none",
        temperature: float = 1.0,
        texture: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
    ) -> HeteroscedasticPipelineOutput | tuple[Any, list[Levels]]:
        """Draw pictures.

        A list of generators with the seeds of `jeppa generate` gives its pictures.

        Args:
            label: a class for all pictures, one for each, or None for the unconditional prediction.
            batch_size: how many pictures; a list of labels or of generators, or `latents`, decides it too.
            num_inference_steps: denoising steps.
            guidance_scale: 1 is the class as learned, above 1 exaggerates it; costs a second evaluation of the net.
            eta: 0 (deterministic) to 1 (ancestral), for schedulers that take it.
            variance: learned draws from the predicted variance of the net's error.
            temperature: size of that draw; 1 is the optimal variance.
            texture: how many sigma the texture may add to a pixel; needs a texture head.
            height, width: of the pictures, in pixels; those of the training unless given.
            generator: one for all pictures, or a list with one for each.
            latents: the noise to start from, `[B,C,h,w]`, instead of drawing it.
            output_type: of the pictures, see `HeteroscedasticPipelineOutput`.
            return_dict: whether to return that object, or a tuple of its fields.

        Raises:
            ConfigError: an unknown label, or a setting that the model or the scheduler cannot follow.
        """
        noise = self._noise(label, batch_size, height, width, generator) if latents is None else latents
        classes, learned = self._classes(label, len(noise)), variance == "learned"
        guided = make_denoise(self._denoiser(), classes, guidance_scale)
        denoise = explain_lack_of_memory(guided, self._vae_about.config.factor)
        settings = self._step_settings(learned, eta, temperature, generator)
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        zt = noise.to(self._execution_device, torch.float32) * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            found = denoise(self.scheduler.scale_model_input(zt, t), t.long().expand(len(zt)))
            both = torch.cat([found.mean, found.logvar], 1) if learned and found.logvar is not None else found.mean
            zt = self.scheduler.step(both, t, zt, **settings).prev_sample
        decoded = self._decode(zt.cpu(), texture, generator)
        self.maybe_free_model_hooks()
        images = _converted(decoded.mean, output_type)
        sigma = [sigma_levels(logvar) for logvar in decoded.logvar]
        return HeteroscedasticPipelineOutput(images=images, sigma=sigma) if return_dict else (images, sigma)

    @classmethod
    def load_config(cls, *given: Any, **named: Any) -> Any:
        """The content of `model_index.json`, in which this class is named as such, so that no code of a folder runs."""
        loaded = super().load_config(*given, **named)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        return loaded

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **named: Any) -> None:
        """Write `model_index.json`, and what DiffusionPipeline and jeppa need to open the folder."""
        super().save_config(save_directory, push_to_hub, **named)
        about = self.config.about
        write_index(Path(save_directory), about["vae"], about["denoiser"])

    def _codec(self) -> LatentCodec:
        """The VAE of the parts as they are now; they may have been exchanged."""
        about = self._vae_about
        net = assemble(about, self.vae, self.sigma_head, self.texture_head)
        return LatentCodec(net, LatentStats(shift=about.latent_shift, scale=about.latent_scale, kept=about.kept))

    def _denoiser(self) -> Denoiser:
        denoiser = Denoiser(self.unet, self._about.prediction, None, self._about.config.patch)
        denoiser.head = self.variance_head
        return denoiser.eval()

    def _noise(
        self,
        label: str | Sequence[str] | None,
        batch_size: int,
        height: int | None,
        width: int | None,
        generator: Generators,
    ) -> Tensor:
        sides = [self._about.resolution if side is None else side for side in (height, width)]
        settings = self._vae_about.config
        multiple = settings.multiple
        for side in sides:
            if side < multiple or side % multiple:
                raise ConfigError(f"height or width is {side}, but must be a multiple of {multiple} from {multiple} up")
        counts = {len(each) for each in (label, generator) if isinstance(each, list | tuple)} or {batch_size}
        if len(counts) > 1:
            raise ConfigError(f"{len(label or ())} labels, but {len(generator)} generators: give one for each picture")  # type: ignore[arg-type]
        shape = (counts.pop(), self._about.latent_channels, *(side // settings.factor for side in sides))
        return standard_normal(torch.empty(shape, device="cpu"), generator)

    def _classes(self, label: str | Sequence[str] | None, count: int) -> Tensor | None:
        if label is None:
            return None
        wanted = [label] * count if isinstance(label, str) else list(label)
        for name in wanted:
            if name not in self.labels:
                known = f"choose one of {', '.join(self.labels)}" if self.labels else "leave it out"
                raise ConfigError(f"label is {name!r}, which this model does not know: {known}")
        return torch.tensor([self.labels.index(name) for name in wanted])

    def _step_settings(self, learned: bool, eta: float, temperature: float, generator: Generators) -> dict[str, Any]:
        """The settings that the scheduler's step takes."""
        taken = inspect.signature(self.scheduler.step).parameters
        if learned and self.variance_head is None:
            raise ConfigError("variance is learned, but the denoiser has no variance head: use variance none")
        if learned and "eps_logvar" not in taken:
            raise ConfigError(
                f"variance is learned, which {type(self.scheduler).__name__} does not take: use "
                "HeteroscedasticDDIMScheduler, or variance none"
            )
        settings = {"eta": eta, "generator": generator, "temperature": temperature}
        return {name: value for name, value in settings.items() if name in taken}

    def _decode(self, z0: Tensor, texture: float, generator: Generators) -> Predictive:
        codec = self._codec()
        if texture == 0.0:
            return codec.decode(z0)
        own = (
            texture_generators([one.initial_seed() for one in generator]) if isinstance(generator, list) else generator
        )
        return codec.vae.decode_texture(codec.raw(z0), texture, own)


def write_index(folder: Path, vae: dict[str, Any], denoiser: dict[str, Any]) -> None:
    """Complete a folder that has the parts and `model_index.json`, so that DiffusionPipeline and jeppa open it.

    Args:
        folder: the pipeline's.
        vae: content of `model.json`.
        denoiser: content of `denoiser.json`.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = [CODE.removesuffix(".py"), HeteroscedasticPipeline.__name__]
    contents = {"model_index.json": index, "model.json": vae, DESCRIPTION: denoiser}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    code = f'"""The pipeline of this folder; needs jeppa."""\n\nfrom jeppa import {HeteroscedasticPipeline.__name__}\n'
    (folder / CODE).write_text(code, encoding="utf-8")


def _converted(x: Tensor, output_type: str) -> Any:
    if output_type == "pil":
        return [Image.fromarray(to_pixels(picture)) for picture in x]
    pictures = (x.clamp(-1.0, 1.0) + 1.0) / 2.0
    if output_type == "np":
        return pictures.permute(0, 2, 3, 1).numpy()
    if output_type == "pt":
        return pictures
    raise ConfigError(f"output_type is {output_type!r}, but must be pil, np or pt")
