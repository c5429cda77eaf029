"""Pictures of a comparison: what each arm makes of a few held-out images, with a drawn residual and its sigma."""

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from jeppa.compare.plan import Comparison, has_head
from jeppa.compare.summary import Json
from jeppa.data import evaluation_images, open_source, write_png
from jeppa.data.sheet import error_levels, sigma_levels
from jeppa.pictures import make_folder
from jeppa.pipeline import load_model

PICTURES = 6
SIDE = 256


def draw_gallery(comparison: Comparison, out: Path, models: dict[str, Path]) -> list[Json]:
    """Write pictures and maps into `out/pictures`; one entry for each image, from the first seed's models."""
    folder = out / "pictures"
    make_folder(folder)
    source = open_source(comparison.data, "heldout")
    stride = max(1, len(source) // PICTURES)
    chosen = list(islice(evaluation_images(source, SIDE), 0, stride * PICTURES, stride))
    entries: list[Json] = []
    for index, (name, x) in enumerate(chosen):
        write_png(x, folder / f"{index}.png")
        entries.append({"name": name, "original": f"pictures/{index}.png", "arms": {}})
    for arm, run in models.items():
        vae = load_model(run).codec.vae
        for index, (_, x) in enumerate(chosen):
            stem = f"{index}.{arm}"
            with torch.no_grad():
                decoded = vae.decode(vae.encode(x[None]).mean)
                draw = decoded.sample(torch.Generator().manual_seed(index))
            write_png(decoded.mean[0], folder / f"{stem}.recon.png")
            write_png(draw[0], folder / f"{stem}.draw.png")
            np.save(folder / f"{stem}.error.npy", error_levels(x, decoded.mean[0]))
            entry = {"recon": f"pictures/{stem}.recon.png", "draw": f"pictures/{stem}.draw.png",
                     "error": f"pictures/{stem}.error.npy"}  # fmt: skip
            if has_head(arm):
                np.save(folder / f"{stem}.sigma.npy", sigma_levels(decoded.logvar[0]))
                entry["sigma"] = f"pictures/{stem}.sigma.npy"
            entries[index]["arms"][arm] = entry
    return entries
