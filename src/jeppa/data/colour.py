"""How different two colours look."""

import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab

from jeppa.data.decode import Pixels


def colour_differences(a: Pixels, b: Pixels) -> npt.NDArray[np.float64]:
    """CIEDE2000 of each pixel of two sRGB pictures, uint8 `[H,W,3]` each; `[H,W]`, about 1 is just seen.

    Source: Sharma, Wu and Dalal, The CIEDE2000 Color-Difference Formula, Color Res. Appl. 30(1), 2005.
    """
    return np.asarray(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)), np.float64)
