"""Processes that train together on this machine, started as torchrun starts them."""

import os
import socket
from pathlib import Path
from typing import Any

import torch
from children import Child, start
from runs import few_statistics

from jeppa.cli import run
from jeppa.config import RunConfig, VAERun
from jeppa.pipeline import load_model
from jeppa.train import DiffusionObjective, TextureObjective, VAEObjective, train
from jeppa.train.step import Objective


def start_ranks(folder: Path, count: int, *arguments: Any, work: Any = None) -> list[Child]:
    """`count` processes that do `work(rank, *arguments)`; by default `train_rank`. Each prints to `folder`/RANK.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    return [
        start(folder / f"{rank}.txt", _as_rank, rank, count, port, work or train_rank, *arguments)
        for rank in range(count)
    ]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def make_objective(config: RunConfig) -> Objective:
    if isinstance(config, VAERun):
        return VAEObjective(config)
    codec = load_model(Path(config.vae)).codec
    return DiffusionObjective(config, codec) if config.kind == "diffusion" else TextureObjective(config, codec)


def train_rank(rank: int, config: RunConfig, folder: Path) -> None:
    """Train to the end in `folder`/run; the weights and buffers of this process go to `folder`/RANK.pt."""
    few_statistics()
    objective = make_objective(config)
    for _ in train(objective, folder / "run"):
        pass
    torch.save(objective.state_dict(), folder / f"{rank}.pt")


def run_command(rank: int, arguments: list[str]) -> int:
    few_statistics()
    return run(arguments)


def _as_rank(rank: int, count: int, port: int, work: Any, *arguments: Any) -> Any:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return work(rank, *arguments)
