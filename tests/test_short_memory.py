"""Real shortages: processes whose address space is limited, and what of a model's work still gets done in them.

Pictures and batches are large on purpose: what malloc and oneDNN keep for themselves, a few MiB for each new shape, is
little beside the layers, and blocks above 32 MiB go back to the system at once.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from children import limit_memory, one_clean_line, start
from torch import Tensor

from jeppa.cli import run as command_line
from jeppa.data import write_png
from jeppa.pipeline import Model
from jeppa.vae import HeteroscedasticVAE

MIB = 2**20


def encode_with_little_memory(shape: tuple[int, ...], tile: int, more: int, answer: Path) -> None:
    """Encode pictures, with `more` bytes to take, and save the means."""
    vae, x = tiny(tile), noise(*shape)
    limit_memory(more)
    torch.save(vae.encode(x).mean, answer)


def type_with_little_memory(arguments: list[str], method: str, more: int) -> int:
    """Run a command line that has `more` bytes to take from the call of this method of a model on."""
    whole = getattr(Model, method)

    def starved(*given: object) -> object:
        limit_memory(more)
        return whole(*given)

    setattr(Model, method, starved)
    return command_line(arguments)


def tiny(tile: int) -> HeteroscedasticVAE:
    torch.manual_seed(0)
    vae = HeteroscedasticVAE("tiny").eval().requires_grad_(False)
    vae.enable_tiling(tile)
    return vae


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).mul_(2.0).sub_(1.0)


@pytest.mark.parametrize(
    ("shape", "tile", "mib", "fitting", "said"),
    [((2048, 3, 64, 64), 2400, 150, 2400, "a batch of 2048 does not fit in memory: trying 1024 at a time"),
     ((1, 3, 2400, 2400), 2400, 128, 1200, "2400 pixels a side do not fit in memory: trying tiles of 1200")],
    ids=["batch", "picture"],
)  # fmt: skip
def test_what_does_not_fit_in_one_go_is_encoded_in_parts(
    shape: tuple[int, ...], tile: int, mib: int, fitting: int, said: str, tmp_path: Path
):
    """Half as much fits, and the answer is that of enough memory. Red without the back-off, by the error of torch."""
    answer = tmp_path / "means"
    child = start(tmp_path / "out.txt", encode_with_little_memory, shape, tile, mib * MIB, answer)
    assert child.wait() == 0, child.said()
    assert child.said().splitlines() == [said]
    expected = tiny(fitting).encode(noise(*shape)).mean
    torch.testing.assert_close(torch.load(answer), expected, atol=1e-4, rtol=1e-4)


def test_a_picture_that_cannot_be_taken_at_all_is_told_in_one_line(vae_folder: Path, tmp_path: Path):
    """Red where `lacks_memory` does not know what torch says."""
    write_png(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8), tmp_path / "large.png")
    arguments = ["reconstruct", "--model", str(vae_folder), "--input", str(tmp_path / "large.png")]
    arguments += ["--out", str(tmp_path / "out"), "--precision", "exact"]
    child = start(tmp_path / "out.txt", type_with_little_memory, arguments, "reconstruct_rows", 1 * MIB)
    assert child.wait() == 2, child.said()
    assert "1200x1200 pixels does not fit in memory, not even in tiles" in one_clean_line(child.said())


def test_a_denoiser_that_lacks_memory_is_told_in_one_line(diffusion_folder: Path, tmp_path: Path):
    """Red when only the VAE's lack of memory is told with its remedy."""
    arguments = ["generate", "--model", str(diffusion_folder), "--out", str(tmp_path / "out"), "-n", "1"]
    arguments += ["--resolution", "2048", "--precision", "exact"]
    child = start(tmp_path / "out.txt", type_with_little_memory, arguments, "generate", 32 * MIB)
    assert child.wait() == 2, child.said()
    assert "2048x2048 pixels, 1 at once, do not fit in memory" in one_clean_line(child.said())


def test_a_lack_of_memory_anywhere_else_is_told_in_one_line(
    vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Red when the command line knows a lack of memory by the errors of its own alone."""

    def lacking(*_: object) -> None:
        np.empty(2**60, np.uint8)

    monkeypatch.setattr(Model, "reconstruct_rows", lacking)
    write_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "small.png")
    arguments = ["reconstruct", "--model", str(vae_folder), "--input", str(tmp_path / "small.png")]
    assert command_line([*arguments, "--out", str(tmp_path / "out"), "--precision", "exact"]) == 2
    assert "memory runs short" in one_clean_line(capfd.readouterr().err)
