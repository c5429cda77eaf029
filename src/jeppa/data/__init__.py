"""Images in and out: one file to x, sources of images, training crops, and synthetic images."""

from jeppa.data.crops import (
    CropDataset,
    CropSample,
    DecodedImages,
    check_resolution,
    decoded_images,
    evaluation_images,
)
from jeppa.data.images import fit, read_image, read_pixels, to_pixels, to_x
from jeppa.data.png import read_settings, write_png
from jeppa.data.refs import ImageRef, Skipped
from jeppa.data.sources import ImageSource, open_source
from jeppa.data.synthetic import (
    SyntheticBands,
    SyntheticImages,
    known_band_logvar,
    known_bands,
    known_gaussian,
    known_logvar,
)

__all__ = [
    "CropDataset",
    "CropSample",
    "DecodedImages",
    "ImageRef",
    "ImageSource",
    "Skipped",
    "SyntheticBands",
    "SyntheticImages",
    "check_resolution",
    "decoded_images",
    "evaluation_images",
    "fit",
    "known_band_logvar",
    "known_bands",
    "known_gaussian",
    "known_logvar",
    "open_source",
    "read_image",
    "read_pixels",
    "read_settings",
    "to_pixels",
    "to_x",
    "write_png",
]
