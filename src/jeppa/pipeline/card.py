"""The card of an exported model: a README with the front matter that Hugging Face reads.

It says only what is known: what the run folder, the catalogue of shipped models and the last measurement say. Of paths
of the user's machine it keeps the last name alone, as a card is made to be published.

Source of the front matter: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jeppa.checkpoint import is_checkpoint, newest_checkpoint, open_checkpoint
from jeppa.config import VAERun, load_run
from jeppa.files import read_json, write_text_atomically
from jeppa.pipeline.model import Model
from jeppa.shipped import SHIPPED, ShippedModel

FIGURES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "rate_bpd": "rate, bits per dimension",
    "distortion_bpd": "distortion, bits per dimension",
    "ence": "ENCE",
    "chi2": "chi2",
    "coverage_90": "share in the 90 % interval",
}
USE = {
    "diffusers": """```python
from diffusers import {net}

vae = {net}.from_pretrained("{name}")
```

`sigma_head/` holds the net that predicts the variance of every pixel; `jeppa reconstruct --model {name}` draws its map.
""",
    "pipeline": """```python
from jeppa import HeteroscedasticPipeline

pipe = HeteroscedasticPipeline.from_pretrained("{name}")
found = pipe({call})
found.images[0], found.sigma[0]
```

`DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)` opens it too. Both need `jeppa` to be installed.
""",
    "ldm": """Put `{name}.safetensors` into `models/vae` (ComfyUI), into `models/VAE` (A1111, Forge), or give it to
kohya's scripts with `--vae`. `{name}.sigma.safetensors`, where there is one, is for jeppa's node for ComfyUI.
""",
}
TAGS = {"diffusers": "vae", "ldm": "vae", "pipeline": "unconditional-image-generation"}


def write_card(path: Path, model: Model, format: str, name: str, licence: str | None, notes: Sequence[str]) -> None:
    """Write the card of `model`.

    Args:
        path: the file.
        model: as it was opened.
        format: a key of `USE`.
        name: of the export.
        licence: as Hugging Face spells it, or None for that of a shipped model, and `unknown` for others.
        notes: of the export, such as the quality in half precision.
    """
    shipped = next((one for one in SHIPPED if str(model.path) == one.name), None)
    shown = licence or ("mit" if shipped is not None else "unknown")
    call = f'"{model.labels[0]}", guidance_scale=2.0' if model.labels else ""
    use = USE[format].format(name=name, net=type(model.codec.vae.vae).__name__, call=call)
    parts = [
        _front_matter(shown, format),
        f"# {name}\n\n{_summary(model)}",
        "## Use\n\n" + use,
        "## Figures\n\n" + _figures(model, shipped, notes),
        "## Data\n\n" + (f"{shipped.data}.\n" if shipped is not None else _data(model)),
        "## Licence\n\n" + _licence(shown, shipped),
    ]
    write_text_atomically(path, "\n".join(parts))


def _front_matter(licence: str, format: str) -> str:
    tags = [TAGS[format], "latent-diffusion", "heteroscedastic", "uncertainty", "jeppa"]
    lines = [
        f"license: {json.dumps(licence)}",
        f"library_name: {'diffusers' if format != 'pipeline' else 'jeppa'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    return "\n".join(["---", *lines, "---", ""])


def _summary(model: Model) -> str:
    vae = model.codec.vae
    net = f"{type(vae.vae).__name__} with {vae.config.latent_channels} latent channels, likelihood `{vae.likelihood}`"
    head = None if model.denoiser is None else model.denoiser.head
    heads = {
        "sigma head": vae.sigma_head, "texture head": vae.texture_head, "denoiser": model.denoiser,
        "variance head": head,
    }  # fmt: skip
    named = [name for name, part in heads.items() if part is not None]
    return f"A heteroscedastic VAE made with jeppa: {', '.join([net, *named])}.\n"


def _figures(model: Model, shipped: ShippedModel | None, notes: Sequence[str]) -> str:
    lines = [f"- {note}" for note in notes]
    if shipped is not None:
        lines += [f"- {title}: {value:g}" for title, value in shipped.figures.items()]
    elif (model.path / "metrics.json").is_file():
        measured = read_json(model.path / "metrics.json")
        lines += [_figure(measured, key) for key in FIGURES if isinstance(measured.get(key), int | float)]
        lines += [f"- measured on {measured.get('n_images')} images"]
    else:
        lines += ["- not measured: `jeppa evaluate --model RUN --data DIR --out RUN/metrics.json`, then export again"]
    return "\n".join(lines) + "\n"


def _figure(measured: dict[str, Any], key: str) -> str:
    interval = measured.get(f"{key}_ci95") or [None, None]
    ends = "" if interval[0] is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"
    return f"- {FIGURES[key]}: {measured[key]:.4g}{ends}"


def _data(model: Model) -> str:
    path = model.path.absolute()
    run = path.parents[1] if is_checkpoint(path) else path
    if not (run / "config.yaml").is_file():
        return "Not recorded.\n"
    config = load_run(run / "config.yaml")
    checkpoint = open_checkpoint(path) if run != path else newest_checkpoint(run)[0]
    data = {} if checkpoint is None else checkpoint.manifest().get("data") or {}
    source = config.data.data if config.data.data.startswith("builtin:") else Path(config.data.data).name
    lines = [f"- `{source}`: {data.get('images', 'an unknown number of')} images, crops of {config.data.resolution}"]
    lines += [f"- fingerprint {data['fingerprint']}"] if "fingerprint" in data else []
    lines += [f"- {config.optim.steps} steps of {config.optim.batch_size}, seed {config.seed}"]
    if isinstance(config, VAERun) and checkpoint is not None:
        lines += [f"- checkpoint of step {checkpoint.step}"]
    return "\n".join(lines) + "\n"


def _licence(shown: str, shipped: ShippedModel | None) -> str:
    if shipped is None:
        about = "Weights that were made from others stay under the licence of those others."
        return f"`{shown}`. {about}\n" if shown != "unknown" else f"Not stated by the one who exported it. {about}\n"
    notice = shipped.folder / "NOTICE"
    text = notice.read_text(encoding="utf-8").rstrip() if notice.is_file() else ""
    return f"{shipped.licence}.\n" + (f"\n```\n{text}\n```\n" if text else "")
