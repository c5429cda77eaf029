"""What a run shows and measures on the way, read once before the first step: later the source may be gone.

A sample sheet shows held-out pictures. The statistics of the latent are those of some random crops. Both are kept as
8-bit pixels, and their number and size are bounded by pixels, so that neither starting nor saving a run at a high
resolution takes more memory than its steps do.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from jeppa.data import CropDataset, ImageSource, to_pixels, to_x
from jeppa.data.decode import Pixels
from jeppa.data.images import fit_square
from jeppa.errors import DataError

SHEET_IMAGES = 8
SHEET_SIDE = 512
STATISTICS_IMAGES = 512
STATISTICS_SIDE = 512
STATISTICS_PIXELS = 512 * 128**2


class ShownPictures:
    """The first held-out pictures, as centred squares of twice the resolution, but at most `SHEET_SIDE`.

    Args:
        heldout: the images.
        resolution: of the training crops, in pixels.

    Raises:
        DataError: none of the first ones can be read.
    """

    def __init__(self, heldout: ImageSource, resolution: int) -> None:
        side = min(2 * resolution, SHEET_SIDE)
        self._pixels: list[Pixels] = []
        problem = ""
        for ref in heldout.refs[:SHEET_IMAGES]:
            try:
                self._pixels.append(fit_square(ref.read_pixels(), side))
            except DataError as error:  # of a large source only the headers were checked
                problem = str(error)
        if not self._pixels:
            raise DataError(problem)

    def pictures(self, device: torch.device) -> Iterator[Tensor]:
        """Each as x `[1,3,S,S]`: one at a time, because eight large ones need more memory than a step."""
        for pixels in self._pixels:
            yield to_x(pixels)[None].to(device)


class StatisticsCrops:
    """The first random crops of a run, on which statistics of the model are measured; kept as 8-bit pixels.

    Args:
        crops: the data set of crops of one side, at most `STATISTICS_SIDE`.
    """

    def __init__(self, crops: CropDataset) -> None:
        self._pixels = [to_pixels(crops[n]["x"]) for n in range(count_crops(crops.resolution))]

    def __iter__(self) -> Iterator[Tensor]:
        """Each as x `[1,3,S,S]`."""
        for pixels in self._pixels:
            yield to_x(pixels)[None]


def count_crops(side: int) -> int:
    """How many crops of a side in pixels: `STATISTICS_IMAGES` of small ones, of larger ones what the bound allows."""
    return max(1, min(STATISTICS_IMAGES, STATISTICS_PIXELS // side**2))
