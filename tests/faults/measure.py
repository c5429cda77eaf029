"""Read one picture file in a fresh process and tell, as JSON, what it cost: python measure.py FILE

A process that has worked already has freed memory to reuse, which would hide what a file takes.
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import images
import numpy as np
from PIL import Image
from watch import Watch

from jeppa.data.decode import read_pixels
from jeppa.errors import DataError


def in_a_process(path: Path) -> dict[str, Any]:
    """What `main` prints."""
    done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Warm up with a good picture, then read the one given."""
    warnings.simplefilter("ignore")
    read_pixels(images.encoded(Image.fromarray(np.zeros((4, 4, 3), np.uint8))))
    refusal = None
    with Watch() as watch:
        try:
            read_pixels(Path(sys.argv[1]))
        except DataError as error:
            refusal = str(error)
    print(json.dumps({"seconds": watch.seconds, "growth_mib": watch.growth_mib, "refusal": refusal}))


if __name__ == "__main__":
    main()
