"""The models that come with the package: found by name, every file hash-checked before it is used.

`models.json` beside this file lists them; each has a folder here, with a card (README.md) with its data,
licence, command and figures. The folder of a denoiser holds no VAE; its entry names the one that made its latents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jeppa.config import Settings, parse
from jeppa.errors import CheckpointError
from jeppa.files import read_json

ROOT = Path(__file__).parent
CATALOGUE = ROOT / "models.json"
REPAIR = "the installation is damaged: pip install --force-reinstall jeppa"


class ShippedModel(Settings):
    """An entry of the catalogue.

    Args:
        name: what `--model` takes; also the name of its folder.
        kind: a VAE, or a denoiser on the latents of the VAE `vae`.
        vae: name of the VAE; the model's own for a VAE.
        parameters: how many, without those of another model's VAE.
        about: one line.
        data: what it was trained on.
        licence: of the data.
        figures: what it reached on held-out data, by name.
        files: SHA-256, in hexadecimal, by path within the folder.
    """

    name: str
    kind: Literal["vae", "denoiser"]
    vae: str
    parameters: int
    about: str
    data: str
    licence: str
    figures: dict[str, float]
    files: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return ROOT / self.name

    @property
    def megabytes(self) -> float:
        """Size of its files on the disk, in units of 10^6 bytes."""
        return sum((self.folder / file).stat().st_size for file in self.files) / 1e6


class _Catalogue(Settings):
    models: tuple[ShippedModel, ...]


SHIPPED = parse(_Catalogue, read_json(CATALOGUE), str(CATALOGUE)).models


@dataclass(frozen=True)
class ShippedFolders:
    """Folders of a shipped model, of which every file has the hash it should have."""

    vae: Path
    denoiser: Path | None


def find_shipped(name: Path | str) -> ShippedFolders | None:
    """The shipped model of that name; None for another name, and where a file or folder of that name exists.

    Raises:
        CheckpointError: a file of it is missing or changed.
    """
    by_name = {model.name: model for model in SHIPPED}
    model = by_name.get(str(name))
    if model is None or Path(name).exists():
        return None
    vae = by_name[model.vae]
    for needed in {vae.name: vae, model.name: model}.values():
        _verify(needed)
    return ShippedFolders(vae.folder, model.folder if model.kind == "denoiser" else None)


def _verify(model: ShippedModel) -> None:
    from jeppa.checkpoint import sha256  # brings torch, which a mere list of the models need not wait for

    for file, expected in model.files.items():
        path = model.folder / file
        try:
            actual = sha256(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {REPAIR}") from None
        if actual != expected:
            raise CheckpointError(f"{path}: is not the file that was shipped; {REPAIR}")
