"""Images in and out: one file to x, sources of images, and training crops.

The public names stand in __init__.pyi, once, and are imported when first used: the process that decodes a stranger's
picture (`jeppa.data.limited`) must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
