"""Shared by all tests: few threads, and small real photographs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jeppa.config import VAERun, parse

THREADS = 1
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _equal_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights are bitwise equal only for equal threads: of this process, and of those that a test starts.

    A script under test may change both.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", str(THREADS))
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_run() -> VAERun:
    """A VAE run of six steps on the built-in photographs; exact, as each test measures runtimes anew."""
    values = {
        "preset": "tiny",
        "data": {"resolution": 32, "colour_jitter": 0.5},
        "optim": {"steps": 6, "batch_size": 2, "save_every": 3, "sample_every": 6, "log_every": 2, "warmup_steps": 2,
                  "precision": "exact"},
    }  # fmt: skip
    return parse(VAERun, values, "test")


@pytest.fixture(scope="session")
def vae_folder(tiny_run: VAERun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished `tiny_run`; not to be written to."""
    from jeppa.train import VAEObjective, train

    run = tmp_path_factory.mktemp("vae") / "run"
    for _ in train(VAEObjective(tiny_run), run):
        pass
    return run


@pytest.fixture(scope="session")
def diffusion_folder(vae_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny class-conditional denoiser; not to be written to."""
    from jeppa.config import DiffusionRun
    from jeppa.pipeline import load_model
    from jeppa.train import DiffusionObjective, train, with_classes

    values = {
        "vae": str(vae_folder),
        "classes": True,
        "views": 16,
        "model": {"block_out_channels": [16, 16], "attention": [False, True]},
        "data": {"resolution": 32},
        "optim": {
            "steps": 4, "batch_size": 4, "save_every": 2, "sample_every": 4, "log_every": 2, "precision": "exact",
        },
    }  # fmt: skip
    config = with_classes(parse(DiffusionRun, values, "test"))
    run = tmp_path_factory.mktemp("diffusion") / "run"
    for _ in train(DiffusionObjective(config, load_model(vae_folder).codec), run):
        pass
    return run


@pytest.fixture(scope="session")
def texture_folder(diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The denoiser of `diffusion_folder`, exported with a VAE that has a texture head of random weights."""
    from jeppa.config import TextureConfig, load_run
    from jeppa.diffusion import save_denoiser
    from jeppa.pipeline import about_denoiser, load_model

    model = load_model(diffusion_folder)
    folder = tmp_path_factory.mktemp("texture")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = model.codec.vae.add_texture_head(TextureConfig(channels=8, blocks=1))
        torch.nn.init.normal_(head.out.weight, std=0.5)
    model.codec.save(folder)
    about = about_denoiser(load_run(diffusion_folder / "config.yaml"), 4, model.labels)
    save_denoiser(model.denoiser, model.schedule, about, folder)
    return folder
