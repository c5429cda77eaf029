"""Give a trained model to the programs that others use.

- `diffusers`: a folder that `AutoencoderKL.from_pretrained` opens, with the sigma head in a folder beside the weights.
- `ldm`: one `.safetensors` with the names of latent diffusion's own code, for ComfyUI, A1111, Forge and kohya, with the
  latent's statistics in its metadata; the sigma head beside it, for the node in `comfyui/`.
- `pipeline`: a folder for `HeteroscedasticPipeline`.

A folder is a model for jeppa too. Weights in half precision are tried before anything is written: a picture of 1024
pixels a side goes through the encoder and the decoder, and what overflows is refused.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from jeppa.data import evaluation_images, open_source
from jeppa.diffusion import HeteroscedasticDDIMScheduler, save_denoiser
from jeppa.distributions import DiagonalGaussian
from jeppa.errors import ConfigError
from jeppa.files import check_new, folder_made_atomically, read_json, written_atomically
from jeppa.pipeline.card import write_card
from jeppa.pipeline.loading import describe_denoiser
from jeppa.pipeline.model import Model
from jeppa.vae.codec import LatentCodec
from jeppa.vae.ldm_keys import to_ldm

Format = Literal["diffusers", "ldm", "pipeline"]
Dtype = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIDE = 1024
"""Pixels a side of the picture that half precision is tried on."""
STATISTICS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
COMMON = ((128, 256, 512, 512), 2)
"""Widths and blocks of the AutoencoderKL of Stable Diffusion, SDXL, SD3 and FLUX."""
SIGMA_SUFFIX = ".sigma.safetensors"


def export_model(
    model: Model, format: Format, dtype: Dtype, out: Path, licence: str | None = None, side: int = SIDE
) -> Iterator[str]:
    """Write `model` for others; yields lines for the user.

    Args:
        model: opened with exact precision, on the CPU.
        format: see above.
        dtype: of the weights; the curve of a sigma head stays float32.
        out: a folder that does not exist or is empty, or for `ldm` a file named `.safetensors`.
        licence: for the card, as Hugging Face spells it; that of a shipped model unless given.
        side: of the picture that half precision is tried on, in pixels.

    Raises:
        ConfigError: the format does not fit the model, `out` is there already, or half precision overflows.
    """
    _check_format(model, format, out)
    cast = cast_model(model, DTYPES[dtype])
    notes = [] if dtype == "fp32" else [_try_half(model, cast, dtype, side)]
    block = model.codec.vae.settings.pixel_unshuffle
    if format == "diffusers" and block > 1 and isinstance(model.codec.vae.vae, AutoencoderKL):
        notes.append(
            f"in stock diffusers it takes blocks of {block}x{block} pixels as {3 * block**2} channels: give pipelines "
            "jeppa.HeteroscedasticVAE.from_pretrained of this folder as vae="
        )
    yield from notes
    if format == "ldm":
        yield from _export_ldm(cast, out, licence, notes)
        return
    with folder_made_atomically(out) as draft:
        if format == "diffusers":
            _export_vae(cast.codec, draft)
        else:
            _export_pipeline(cast, draft)
        write_card(draft / "README.md", model, format, out.name, licence, notes)
    yield f"{format}: {out}"


def cast_model(model: Model, dtype: torch.dtype) -> Model:
    """A copy whose nets have weights of `dtype`, all but the curve of the sigma head."""
    vae = copy.deepcopy(model.codec.vae)
    for part in (vae.vae, vae.sigma_head, vae.texture_head):
        if part is not None:
            torch.nn.Module.to(part, dtype)  # without the warning of diffusers about the curve, which is put back
    if vae.sigma_head is not None and model.codec.vae.sigma_head is not None:
        vae.sigma_head.curve = copy.deepcopy(model.codec.vae.sigma_head.curve)
    denoiser = copy.deepcopy(model.denoiser)
    return replace(
        model, codec=LatentCodec(vae, model.codec.stats), denoiser=None if denoiser is None else denoiser.to(dtype)
    )


def _check_format(model: Model, format: Format, out: Path) -> None:
    if format == "ldm":
        if out.suffix != ".safetensors":
            raise ConfigError(f"{out}: ldm is one file: give --out a name that ends in .safetensors")
        net, unshuffle = model.codec.vae.vae, model.codec.vae.settings.pixel_unshuffle
        if not isinstance(net, AutoencoderKL) or unshuffle != 1:
            kind = f"an AutoencoderKL over {unshuffle}x{unshuffle} pixels taken as one"
            raise ConfigError(
                f"{model.path}: is {kind if isinstance(net, AutoencoderKL) else type(net).__name__}, which programs "
                "for LDM files cannot build; use --format diffusers or pipeline, or train with --preset sd"
            )
    if format == "pipeline" and model.denoiser is None:
        raise ConfigError(
            f"{model.path}: a VAE without a denoiser is no pipeline; use --format diffusers, or train a denoiser with "
            "jeppa train diffusion"
        )
    for path in [out, *_beside(out)] if format == "ldm" else [out]:
        check_new(path)


@torch.no_grad()
def _try_half(model: Model, cast: Model, dtype: Dtype, side: int) -> str:
    """Compare a reconstruction in half precision with that in float32."""
    x = _trial_picture(side)
    latent = cast.codec.vae.encode(x).mean
    decoded = cast.codec.vae.decode(latent)
    expected = model.codec.vae.reconstruct(x).mean
    parts = {"encoder": latent, "decoder": decoded.mean, "sigma head": decoded.logvar}
    broken = [name for name, found in parts.items() if not bool(found.isfinite().all())]
    if broken:
        raise ConfigError(
            f"{model.path}: in {dtype} the {' and the '.join(broken)} overflows at {side}x{side} pixels; use --dtype "
            f"{'bf16 or fp32' if dtype == 'fp16' else 'fp32'}"
        )
    psnr = -10.0 * math.log10(max(float((decoded.mean - expected).square().mean()) / 4.0, 1e-20))
    return f"{dtype}: finite at {side}x{side} pixels, PSNR to fp32 {psnr:.1f} dB"


def _trial_picture(side: int) -> Tensor:
    """A built-in photograph, `[1,3,side,side]`."""
    _, x = next(evaluation_images(open_source("builtin:photos", "heldout"), resolution=None))
    short = min(x.shape[1:])
    return F.interpolate(x[None, :, :short, :short], (side, side), mode="bicubic", antialias=True).clamp(-1.0, 1.0)


def _export_vae(codec: LatentCodec, draft: Path) -> None:
    """As `LatentCodec.save`, with the content of `vae/` in the folder itself, where diffusers looks for it."""
    codec.save(draft)
    for path in sorted((draft / "vae").iterdir()):
        path.rename(draft / path.name)
    (draft / "vae").rmdir()


def _export_pipeline(model: Model, draft: Path) -> None:
    from jeppa.pipeline.stock_pipeline import HeteroscedasticPipeline  # all of diffusers' pipelines: seconds

    assert model.denoiser is not None
    model.codec.save(draft)
    about = describe_denoiser(model.path)
    if about.labels != model.labels:
        about = about.model_copy(update={"labels": model.labels})
    scheduler = HeteroscedasticDDIMScheduler.for_latents(model.denoiser.kind)
    save_denoiser(model.denoiser, scheduler, about, draft)
    vae = model.codec.vae
    HeteroscedasticPipeline(
        vae.vae, model.denoiser.unet, scheduler, vae.sigma_head, vae.texture_head, model.denoiser.head,
        {"vae": read_json(draft / "model.json"), "denoiser": about.model_dump(mode="json")},
    ).save_config(draft)  # fmt: skip


def _export_ldm(model: Model, out: Path, licence: str | None, notes: list[str]) -> Iterator[str]:
    vae = model.codec.vae
    config = vae.vae.config
    metadata = {"format": "pt", **{key: json.dumps(config[key]) for key in STATISTICS if config.get(key) is not None}}
    sigma, card = _beside(out)
    has_head = vae.sigma_head is not None and vae.arm.distribution is DiagonalGaussian and not vae.arm.tails
    with ExitStack() as drafts:  # all of them are put in place at its end, or none
        weights = {name: value.contiguous() for name, value in to_ldm(vae.vae.state_dict()).items()}
        save_file(weights, drafts.enter_context(written_atomically(out)), metadata)
        if vae.sigma_head is not None and has_head:
            draft = drafts.enter_context(written_atomically(sigma))
            save_file(vae.sigma_head.state_dict(), draft, _describe_head(model))
        write_card(card, model, "ldm", out.stem, licence, notes)
    yield f"ldm: {out}, scaling factor {config['scaling_factor']:g}"
    if has_head:
        yield f"sigma head: {sigma}"
    elif vae.sigma_head is not None:
        yield f"sigma head: left out, as the node knows no variance of {vae.likelihood}"
    if (tuple(vae.vae.config.block_out_channels), vae.vae.config.layers_per_block) != COMMON:
        yield "note: ComfyUI, A1111 and Forge build levels of 128, 256, 512 and 512 channels with two blocks, no others"
    yield f"card: {card}"


def _describe_head(model: Model) -> dict[str, str]:
    """What the node in `comfyui/` needs to build the head; safetensors holds strings."""
    vae = model.codec.vae
    assert vae.sigma_head is not None
    config = {key: value for key, value in vae.sigma_head.config.items() if not key.startswith("_")}
    return {"format": "pt", "sigma_head": json.dumps({**config, "shared_logvar": float(vae.shared_logvar)})}


def _beside(out: Path) -> tuple[Path, Path]:
    """The sigma head and the card of an LDM file."""
    return out.with_name(out.stem + SIGMA_SUFFIX), out.with_suffix(".md")
