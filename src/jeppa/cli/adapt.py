"""`jeppa adapt`: a sigma head for a VAE that stays as it is, trained and then calibrated."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jeppa.cli.core import (
    Change,
    Flat,
    MaybeWhole,
    Values,
    console,
    flags_of,
    like_init,
    merge,
    nest_flags,
    say,
    say_skipped,
)
from jeppa.config import VAERun, parse
from jeppa.files import check_out_folder, read_yaml

if TYPE_CHECKING:
    from jeppa.data import ImageSource

    AdaptFlags = Any
else:
    FIXED = frozenset(
        {"kind", "preset", "model", "frozen", "beta", "rate", "kl_warmup_steps", "free_bits", "perceptual"}
    )
    AdaptFlags = flags_of("AdaptFlags", VAERun, leave_out=FIXED)

DEFAULTS: Values = {
    "frozen": "mean",
    "optim": {"steps": 500, "batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 50, "ema_decay": 0.98},
}
"""Nothing but a small head learns, so few steps at a high rate are enough."""
CALIBRATED_ON = 64
"""Most pictures to calibrate on."""


def adapt(
    *,
    vae: Path,
    out: Path,
    calibrate_at: MaybeWhole = None,
    resume: bool = False,
    allow_change: list[Change] | None = None,
    flags: Annotated[AdaptFlags | None, Flat] = None,
) -> None:
    """Learn a sigma head for a VAE that stays as it is, then fit the size of sigma on held-out pictures.

    What the VAE encodes and decodes stays the same bit for bit, and so do all entries of its config.json.

    Args:
        vae: AutoencoderKL or AutoencoderTiny of diffusers, pipeline folder, .safetensors file with diffusers' or LDM's
            names, exported folder, run folder or shipped name.
        out: run folder to write.
        calibrate_at: side of the centred square of each picture that sigma is calibrated on; whole pictures unless
            given.
        resume: go on from the newest intact checkpoint in OUT, with its settings.
        allow_change: go on although the settings (never those of the model) or the data are not those of the run.
    """
    check_out_folder(out)
    saved = out / "config.yaml"
    base = read_yaml(saved) if resume and saved.is_file() else like_init(DEFAULTS, vae)
    settings = parse(VAERun, merge(base, nest_flags(flags, VAERun)), "flags")
    check_out_folder(out, settings.data.data)
    from jeppa.lab.recalibrate import calibrate
    from jeppa.pipeline import load_model
    from jeppa.progress import follow
    from jeppa.train import VAEObjective, replace_sigma_head, train

    objective = VAEObjective(settings, vae)
    say_skipped(objective.data.source)
    follow("sigma head", train(objective, out, resume, allow_change or ()), console)
    codec = load_model(out).codec
    heldout = _choose_heldout(settings)
    factor = calibrate(codec.vae, [(heldout, calibrate_at)])
    replace_sigma_head(out, codec)
    say(f"sigma: times {factor:.2f} in the middle, a curve fitted on {len(heldout)} held-out images")
    say(f"run folder: {out}")


def _choose_heldout(settings: VAERun) -> "ImageSource":
    """Held-out pictures of the data, spread evenly over them."""
    from dataclasses import replace

    from jeppa.data import open_data

    source = open_data(settings.data, "heldout")
    step = -(-len(source) // CALIBRATED_ON)
    return replace(source, refs=source.refs[::step])
