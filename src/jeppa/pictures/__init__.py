"""Pictures as files: what `reconstruct`, `generate`, `interpolate` and `mix` write."""

from jeppa.pictures.folder import make_folder
from jeppa.pictures.mixtures import interpolate_files, mix_files
from jeppa.pictures.reconstructions import reconstruct_files
from jeppa.pictures.samples import generate_files

__all__ = ["generate_files", "interpolate_files", "make_folder", "mix_files", "reconstruct_files"]
