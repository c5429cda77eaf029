"""`jeppa export`: trained models for the programs that others use."""

from pathlib import Path
from typing import Literal

from jeppa.cli.core import say
from jeppa.files import check_new, check_out_file, check_out_folder


def export(
    *,
    model: Path,
    format: Literal["diffusers", "ldm", "pipeline"],
    out: Path,
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
    licence: str | None = None,
) -> None:
    """Write a trained model for diffusers, ComfyUI and others, with a card beside it.

    Half precision is tried on a picture of 1024 pixels a side first, and refused if it overflows.

    Args:
        model: run folder, exported folder or name of a shipped model.
        format: diffusers: a folder for AutoencoderKL.from_pretrained; ldm: one file for ComfyUI, A1111, Forge and
            kohya; pipeline: a folder for DiffusionPipeline.from_pretrained, of a model with a denoiser.
        out: folder to write, which is not there yet or is empty; for ldm a file named NAME.safetensors.
        dtype: of the weights.
        licence: of the weights, for the card, as Hugging Face spells it, such as mit; unknown unless given.
    """
    check_new(out)
    (check_out_file if format == "ldm" else check_out_folder)(out)
    from jeppa.pipeline import load_model
    from jeppa.pipeline.export import export_model

    for line in export_model(load_model(model), format, dtype, out, licence):
        say(line)
