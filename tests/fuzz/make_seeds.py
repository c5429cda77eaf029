"""Write the seeds of the fuzzing: small valid and half-valid files of every kind. python tests/fuzz/make_seeds.py"""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from safetensors.torch import save
from targets import EXPECTED, SEPARATOR

from jeppa.config import PRESETS, DiffusionRun, VAERun, dump_yaml

CORPUS = Path(__file__).parent / "corpus"
Seeds = dict[str, bytes]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def images() -> Seeds:
    """One of each format, mode and oddity."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]}
    seeds = {f"rgb.{kind.lower()}": encoded(rgb, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")}
    seeds |= {f"{mode}.png": encoded(rgb.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")}
    seeds |= {f"{mode}.tiff": encoded(rgb.convert(mode), "TIFF") for mode in ("CMYK", "LAB", "YCbCr", "F", "I")}
    seeds |= {f"{how}.tiff": encoded(rgb, "TIFF", compression=how) for how in ("tiff_lzw", "jpeg", "packbits")}
    seeds |= {f"animated.{kind.lower()}": encoded(rgb, kind, **frames) for kind in ("GIF", "WEBP", "PNG")}
    cmyk = encoded(rgb.convert("CMYK"), "JPEG", exif=exif)
    progressive = encoded(rgb, "JPEG", progressive=True)
    return {
        **seeds,
        "cmyk.jpeg": cmyk,
        "progressive.jpeg": progressive,
        "exif.png": encoded(rgb, "PNG", exif=exif),
        "icc.png": encoded(rgb, "PNG", icc_profile=profile),
        "alpha.webp": encoded(rgb.convert("RGBA"), "WEBP"),
        "icon.bmp": encoded(rgb.convert("P"), "BMP"),
        "bits.ppm": encoded(rgb.convert("1"), "PPM"),
        "rgb.avif": encoded(rgb, "AVIF"),
        "text.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }


def configs() -> Seeds:
    """Both kinds of run, and what YAML can do that we refuse."""
    return {
        "vae.yaml": dump_yaml(VAERun()).encode(),
        "diffusion.yaml": dump_yaml(DiffusionRun(vae="run")).encode(),
        "short.yaml": b"kind: vae\npreset: tiny\noptim: {steps: 5, learning_rate: 1.0e-3}\n",
        "alias.yaml": b"a: &x [1]\nb: *x\n",
        "tag.yaml": b"a: !!python/name:os.system\n",
        "no-date.yaml": b"kind: vae\nrate: 2001-99-99\n",
        "list.yaml": b"kind: [vae]\n",
        "digits.yaml": b"kind: vae\noptim: {steps: 0x" + b"f" * 5000 + b"}\n",
        "deep.yaml": b"kind: " + b"[" * 5000,
        "scalars.yaml": b"kind: vae\nseed: 0x1f\nbeta: .nan\nrate: 1:30\nfree_bits: 2001-01-01\n? [a]\n: ~\n",
        "block.yaml": b"kind: |\n  vae\nvae: >-\n  run\n<<: {a: 1}\n---\nb: 'c'\n",
    }


def checkpoints() -> Seeds:
    """A tensor file, descriptions of models, and a manifest with its state."""
    state = json.dumps({"step": 1, "published": {"latent": {"shift": [0.0], "scale": [1.0]}}}).encode()
    files = {"state.json": {"sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}}
    manifest = json.dumps({"format": 1, "step": 1, "files": files}).encode()
    model = {
        "format": 1, "likelihood": "faithful", "config": PRESETS["tiny"].model_dump(mode="json"), "mean_square": 0.1,
        "latent_shift": [0.0] * 4, "latent_scale": [1.0] * 4,
    }  # fmt: skip
    other = {**EXPECTED, "extra": torch.ones(2, dtype=torch.bfloat16)}
    return {
        "tensors": b"t" + save(EXPECTED),
        "other_tensors": b"t" + save(other, {"about": "text"}),
        "no_tensors": b"t" + save({}),
        "model": b"m" + json.dumps(model).encode(),
        "manifest": b"c" + manifest + SEPARATOR + state,
    }


def archives() -> Seeds:
    """Zips as people and attackers make them."""
    png = images()["rgb.png"]
    names = {"plain": ["a.png", "cat/b.png", "notes.txt"], "hostile": ["../a.png", "/b.png", "c\\..\\d.png", "e.pkl"]}
    seeds = {}
    for name, members in names.items():
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for member in members:
                    archive.writestr(zipfile.ZipInfo(member), png, method)
            seeds[f"{name}-{method}.zip"] = stream.getvalue()
    # Found by fuzzing: zipfile's own is_dir() raises IndexError for a member without a name.
    seeds["nameless.zip"] = seeds["plain-0.zip"].replace(b"a.png", b"\0.png")
    return seeds


def main() -> None:
    """Write all seeds below tests/fuzz/corpus."""
    for make in (images, configs, checkpoints, archives):
        folder = CORPUS / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make().items():
            (folder / name.replace(";", "")).write_bytes(content)


if __name__ == "__main__":
    main()
