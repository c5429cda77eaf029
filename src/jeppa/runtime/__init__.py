"""How a net is run on this machine: number format, memory layout and formulation, chosen by measuring."""

from jeppa.runtime.choice import EXACT, Runtime, choose_runtime
from jeppa.runtime.formulation import cast_weights, compile_blocks, lay_out, norms_in_default_layout, prepare

__all__ = [
    "EXACT",
    "Runtime",
    "cast_weights",
    "choose_runtime",
    "compile_blocks",
    "lay_out",
    "norms_in_default_layout",
    "prepare",
]
