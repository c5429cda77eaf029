from .crops import CropDataset, CropSample, DecodedImages, check_resolution, evaluation_images, make_image_cache
from .decode import read_pixels
from .images import fit_square, read_image, read_settings, to_pixels, to_x, write_png
from .limited import read_pixels_limited
from .listing import ImageRef, Skipped
from .sources import ImageSource, Splits, open_data, open_source, open_splits

__all__ = [
    "CropDataset",
    "CropSample",
    "DecodedImages",
    "ImageRef",
    "ImageSource",
    "Skipped",
    "Splits",
    "check_resolution",
    "evaluation_images",
    "fit_square",
    "make_image_cache",
    "open_data",
    "open_source",
    "open_splits",
    "read_image",
    "read_pixels",
    "read_pixels_limited",
    "read_settings",
    "to_pixels",
    "to_x",
    "write_png",
]
