"""Nodes for ComfyUI: a VAE's picture with sigma, the size of the error that its decoder expects at each pixel."""

from .nodes import DecodeWithSigma, LoadSigmaHead

NODE_CLASS_MAPPINGS = {"JeppaLoadSigmaHead": LoadSigmaHead, "JeppaDecodeWithSigma": DecodeWithSigma}
NODE_DISPLAY_NAME_MAPPINGS = {
    "JeppaLoadSigmaHead": "Load Sigma Head (jeppa)",
    "JeppaDecodeWithSigma": "VAE Decode with Sigma (jeppa)",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
