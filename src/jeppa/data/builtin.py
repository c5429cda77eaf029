"""`builtin:photos`: the photographs that scikit-image and scikit-learn install with themselves.

They make the demo and the comparison runnable without a download. The split is by scene and fixed here, so
that no held-out picture shares its motif with a training picture (the two motorcycle views are one scene).
"""

from importlib.util import find_spec
from pathlib import Path

from jeppa.data.folders import file_ref
from jeppa.data.refs import ImageRef
from jeppa.errors import DataError

BUILTIN_NAMES = ("photos",)
HELDOUT_SCENES = frozenset({"cat", "coffee", "rocket", "camera", "gravel"})

_SCIKIT_IMAGE = {
    "astronaut.png": "astronaut",
    "brick.png": "brick",
    "camera.png": "camera",
    "cell.png": "cell",
    "chelsea.png": "cat",
    "clock_motion.png": "clock",
    "coffee.png": "coffee",
    "coins.png": "coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies",
    "ihc.png": "tissue",
    "moon.png": "moon",
    "motorcycle_left.png": "motorcycle",
    "motorcycle_right.png": "motorcycle",
    "retina.jpg": "retina",
    "rocket.jpg": "rocket",
}
_SCIKIT_LEARN = {"china.jpg": "temple", "flower.jpg": "flower"}


def list_builtin(name: str) -> tuple[ImageRef, ...]:
    """The images of a built-in set, sorted by name; the label is the scene.

    Raises:
        DataError: if the set is unknown, or a package that holds it is incomplete.
    """
    if name not in BUILTIN_NAMES:
        known = ", ".join(f"builtin:{one}" for one in BUILTIN_NAMES)
        raise DataError(f"'builtin:{name}' is no built-in data set; the known ones are: {known}")
    refs = [
        *_refs("skimage", "data", "scikit-image", _SCIKIT_IMAGE),
        *_refs("sklearn", "datasets/images", "scikit-learn", _SCIKIT_LEARN),
    ]
    return tuple(sorted(refs, key=lambda ref: ref.name))


def _refs(module: str, folder: str, distribution: str, scenes: dict[str, str]) -> list[ImageRef]:
    spec = find_spec(module)  # finds the package without importing it, which takes a second
    if spec is None or spec.origin is None:
        raise DataError(f"builtin:photos needs {distribution}; run: pip install {distribution}")
    root = Path(spec.origin).parent / folder
    missing = [name for name in scenes if not (root / name).is_file()]
    if missing:
        remedy = f"run: pip install --force-reinstall {distribution}"
        raise DataError(f"builtin:photos misses {missing[0]!r} of {distribution}; {remedy}")
    return [file_ref(root / name, name, scene) for name, scene in scenes.items()]
