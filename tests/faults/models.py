"""Model folders, tensor files, settings and archives as attackers make them."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import images
import torch
from PIL import Image
from safetensors.torch import save

from jeppa.vae import HeteroscedasticVAE, save_folder

GOOD = {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}


class Canary:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "sung")


def pickles(folder: Path, canary: Path) -> list[Path]:
    """Checkpoints that sing when they are unpickled: plain pickles, and torch's zip around one."""
    folder.mkdir(parents=True)
    paths = []
    for name in ("model.ckpt", "model.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps({"state_dict": Canary(canary)}))
        paths.append(folder / name)
    torch.save({"state_dict": Canary(canary)}, folder / "zipped.pt")
    return [*paths, folder / "zipped.pt"]


def exported(folder: Path) -> Path:
    """A good exported VAE."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    save_folder(HeteroscedasticVAE("tiny"), (0.0,) * 4, (1.0,) * 4, folder)
    return folder


def tensor_file(header: dict[str, Any] | bytes, values: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any header; `length` is what its first bytes claim."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def hostile_tensors() -> Iterator[tuple[str, bytes, str]]:
    """Name, file, and a word of the refusal; each but the first is an offence that GOOD does not commit."""
    good = save(GOOD)
    size = struct.unpack("<Q", good[:8])[0]
    header, values = json.loads(good[8 : 8 + size]), good[8 + size :]
    weight, bias = header["weight"], header["bias"]

    def changed(**entries: Any) -> bytes:
        return tensor_file({**header, **entries}, values)

    twice = json.dumps(header)[:-1] + ', "bias": ' + json.dumps(bias) + "}"
    nan = {**GOOD, "bias": torch.tensor([0.0, float("nan"), 0.0])}
    yield "header of 2^63 bytes", tensor_file(header, values, 2**63), "header"
    yield "header of 100 MB", tensor_file(b" " * 100_000_000 + b"{}", b""), "header"
    yield "nested header", tensor_file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b""), "JSON"
    yield "duplicate key", tensor_file(twice.encode(), values), "twice"
    later = max((weight, bias), key=lambda entry: entry["data_offsets"][0])
    moved = {**later, "data_offsets": [offset - 4 for offset in later["data_offsets"]]}
    yield "overlap", changed(**{"weight" if later is weight else "bias": moved}), "invalid offset"
    yield "gap", tensor_file(header, values + b"\0" * 8), "not fully covered"
    yield "out of range", changed(bias={**bias, "data_offsets": [2**40, 2**40 + 12]}), "invalid offset"
    yield "shape of 2^62", changed(bias={**bias, "shape": [2**62]}), "shape"
    yield "negative offset", changed(bias={**bias, "data_offsets": [-12, 0]}), "integer `-12`"
    yield "unknown type", changed(bias={**bias, "dtype": "O"}), "unknown variant `O`"
    half = {**bias, "dtype": "F4", "shape": [24]}
    yield "a type that torch has no finite numbers of", changed(bias=half), "only F64"
    yield "NaN weight", save(nan), "NaN"
    yield "infinite weight", save({**GOOD, "bias": torch.full((3,), float("inf"))}), "infinity"
    yield "wrong shape", save({**GOOD, "bias": torch.zeros(4)}), "another architecture"
    yield "wrong type", save({**GOOD, "bias": torch.zeros(3, dtype=torch.float64)}), "another architecture"
    yield "missing name", save({"weight": GOOD["weight"]}), "missing"
    yield "unknown name", save({**GOOD, "more": torch.zeros(1)}), "not known"
    yield "truncated", good[:-4], "not fully covered"


def spoil(folder: Path, canary: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways to make an exported folder run code or read elsewhere, each to be applied to a fresh copy of it."""
    code = f"from pathlib import Path; Path({str(canary)!r}).write_text('sung')\n"
    config, index = folder / "vae" / "config.json", folder / "vae" / "diffusion_pytorch_model.safetensors.index.json"

    def set_key(key: str, value: Any) -> None:
        config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))

    def split_weights() -> None:
        index.write_text(json.dumps({"weight_map": {"encoder.conv_in.weight": "../../secret.safetensors"}}))

    def own_class() -> None:
        set_key("_class_name", "Evil")
        (folder / "vae" / "evil.py").write_text(code)

    yield "_class_name of another module", lambda: set_key("_class_name", "os.system")
    yield "_class_name of another class", lambda: set_key("_class_name", "UNet2DModel")
    yield "auto_map", lambda: set_key("auto_map", {"AutoModel": "stranger/code--evil.Model"})
    yield "index with ../", split_weights
    yield "custom .py", lambda: (folder / "vae" / "autoencoder_kl.py").write_text(code)
    yield (
        "custom .py and its class",
        lambda: (set_key("_class_name", "Evil"), (folder / "vae" / "evil.py").write_text(code)),
    )
    yield "pickled weights", lambda: pickle_beside(folder / "vae", canary)
    yield "nameless JSON", lambda: (folder / "model.json").write_text("[]")
    yield "an architecture of 10^9 layers", lambda: _set_config(folder, "layers_per_block", 10**9)
    yield "an architecture of terabytes", lambda: _set_config(folder, "block_out_channels", [8192])


def pickle_beside(folder: Path, canary: Path) -> None:
    """Exchange the weights of a folder for pickled ones."""
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))


def _set_config(folder: Path, key: str, value: Any) -> None:
    path = folder / "model.json"
    description = json.loads(path.read_text())
    description["config"][key] = value
    path.write_text(json.dumps(description))


def alias_bomb() -> str:
    """Nine lines for a billion entries."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


def hostile_archives(folder: Path) -> Iterator[tuple[str, Path]]:
    """Archives that write elsewhere when they are extracted, or unpack to a great deal."""
    folder.mkdir(parents=True)
    png = images.encoded(Image.fromarray(images.photo()))
    path = folder / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../evil.png", "/tmp/evil.png", "a\\..\\..\\evil.png", "C:\\evil.png", "model.pkl"):
            archive.writestr(name, png if name.endswith("png") else b"\x80\x04canary")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (0o120777) << 16
        archive.writestr(link, "/etc/passwd")
    yield "zip", path
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", b"BM" + b"\0" * 100_000_000)
    yield "zip bomb", folder / "bomb.zip"
    with tarfile.open(folder / "hostile.tar", "w") as tar:
        for name in ("../evil.png", "/tmp/evil.png", "good.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(png)
            tar.addfile(entry, io.BytesIO(png))
    yield "tar", folder / "hostile.tar"
    (folder / "tar.zip").write_bytes((folder / "hostile.tar").read_bytes())
    yield "tar named .zip", folder / "tar.zip"
