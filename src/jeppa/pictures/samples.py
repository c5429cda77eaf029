"""What `jeppa generate` writes: samples as they come, so that memory stays flat for any number."""

import os
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor

from jeppa.data import read_pixels, read_pixels_limited, to_x, write_png
from jeppa.data.decode import Pixels
from jeppa.data.sheet import colour_map, sigma_levels
from jeppa.diffusion import SamplerStep
from jeppa.pictures.folder import MadeBy, made_by, make_folder, reduced, rows_of, write_sheet
from jeppa.pictures.rejection import LeastUncertain, candidates
from jeppa.pipeline import Model, SamplerSettings, at_once
from jeppa.pipeline.preview import preview

SHEET_PICTURES = 64
REJECTED = "rejected"
DIGITS = 6
"""Of the score in a PNG: what lies behind them depends on the batch."""
STEPS = "steps"
PREVIEW_SCALE = 64.0
"""8-bit levels of sigma shown as pale yellow: twice that of a reconstruction, since an estimate starts from nothing."""


def generate_files(
    model: Model,
    out: Path,
    number: int,
    seed: int,
    settings: SamplerSettings,
    keep: float = 1.0,
    mask: Path | None = None,
    previews: bool = False,
) -> Path:
    """Write `number` PNGs with their settings and uncertainty, and `sheet.png` of the first 64; returns the sheet.

    Args:
        model: with a denoiser.
        out: folder to write.
        number: how many stay in `out`.
        seed: of the first sample; the next ones count up.
        settings: how to sample.
        keep: below 1, number / keep samples are drawn and all but the least uncertain end in `out/rejected`. The sheet
            then shows the least uncertain first.
        mask: picture of the size of the samples; see `read_mask`.
        previews: whether to write `out/steps/step-NN.png`, the first samples as they form.

    Raises:
        ConfigError: a setting is out of range or does not fit the model; nothing is written then.
        DataError: the mask cannot be read.
    """
    seeds = range(seed, seed + candidates(number, keep))
    if keep < 1.0:
        model.check_variance("--keep")
    region = None if mask is None else read_mask(mask)
    about = {**settings.model_dump(mode="json"), "mask": mask, "keep": keep, "model": model.path}
    watch = partial(_write_step, model, out / STEPS, made_by(**about, seed=seed)) if previews else None
    first = at_once(model.side(settings.resolution))
    drawn = model.generate(seeds[:first], settings, region, watch)
    if len(seeds) > first:
        drawn = chain(drawn, model.generate(seeds[first:], settings, region))
    make_folder(out)
    chosen = LeastUncertain(number)
    for sample in drawn:
        score = None if sample.uncertainty is None else round(sample.uncertainty, DIGITS)
        write_png(sample.x, _place(out, sample.seed), made_by(**about, seed=sample.seed, uncertainty=score))
        _place(out / REJECTED, sample.seed).unlink(missing_ok=True)  # of an earlier run
        dropped = chosen.offer(sample.seed, sample.uncertainty or 0.0)
        if dropped is not None:
            make_folder(out / REJECTED)
            os.replace(_place(out, dropped), _place(out / REJECTED, dropped))
    kept = chosen.seeds() if keep < 1.0 else seeds
    shown = [reduced(read_pixels(_place(out, one))) for one in kept[:SHEET_PICTURES]]
    return write_sheet(rows_of(shown), out / "sheet.png", made_by(**about, seed=seed))


def read_mask(path: Path) -> Tensor:
    """Read a greyscale picture as a mask, float32 `[H,W]`: black is 0, white 1; colours count by their mean.

    Raises:
        DataError: it cannot be read.
    """
    return (to_x(read_pixels_limited(path)).mean(0) + 1.0) / 2.0


def _place(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.png"


def _write_step(model: Model, folder: Path, about: MadeBy, step: SamplerStep) -> None:
    """Estimates in rows, under each row its sigma maps."""
    seen = preview(model.codec, step)
    rows = rows_of(list(seen.estimate))
    if seen.sigma is not None:
        maps: list[Tensor | Pixels] = [
            colour_map(sigma_levels(2.0 * sigma.log()), PREVIEW_SCALE) for sigma in seen.sigma
        ]
        rows = [row for pair in zip(rows, rows_of(maps), strict=True) for row in pair]
    make_folder(folder)
    settings = {**about, **made_by(step=step.index, t=step.t, pale_yellow_levels=PREVIEW_SCALE)}
    write_sheet(rows, folder / f"step-{step.index:02d}.png", settings)
