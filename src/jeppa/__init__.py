"""jeppa: train, evaluate and use heteroscedastic VAEs for latent diffusion.

import jeppa
model = jeppa.load_model(Path("run"))
decoded = model.reconstruct(jeppa.read_image(Path("photo.jpg"))[None])
decoded.mean, decoded.std        # reconstruction and its per-pixel sigma, [1,3,H,W]
"""

import lazy_loader

__version__ = "0.1.0"

# The public names stand in __init__.pyi, once, and are imported when first used: `jeppa --help` need not load torch.
_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    # diffusers looks for its base classes in the library that a model_index.json names, to know how to load a part.
    if name in ("ModelMixin", "SchedulerMixin"):
        import diffusers

        return getattr(diffusers, name)
    return _public(name)
