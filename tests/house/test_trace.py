"""What a user runs can be read in one sitting: few files are entered, and there are few to begin with."""

from pathlib import Path

from trace_files import GENERATE_LIMIT, RECONSTRUCT_LIMIT, ROOT, entered, generate, reconstruct

from jeppa.files import parse_json

FILES = 75
ADDED = {
    "lab/plainness.py",
    "data/kinds.py",
    "data/shards.py",
    "data/splits.py",
    "pipeline/drawing.py",
    "pipeline/looking.py",
    "pipeline/regions.py",
    "pipeline/rough.py",
    "vae/ldm_keys.py",
    "cli/exchange.py",
    "pipeline/card.py",
    "pipeline/export.py",
    "pipeline/stock_pipeline.py",
    "train/ranks.py",
    "cli/scale.py",
    "cli/adapt.py",
    "vae/architecture.py",
    "vae/foreign.py",
    "vae/pyramid.py",
    "vae/stock.py",
    "train/readers.py",
    "train/shown.py",
    "train/signals.py",
}
"""Files that later features brought, one subject each; the studio is a room of its own that nothing else enters."""
STUDIO_FILES = 16
SCALE_FILES = 8


def test_a_reconstruction_enters_few_files(tmp_path: Path):
    """Red when the way from a picture to its reconstruction leads through more files than the limit."""
    files = reconstruct(tmp_path)
    assert {"outputs.py", "pipeline/model.py", "vae/model.py"} <= set(files)
    assert len(files) <= RECONSTRUCT_LIMIT, files


def test_a_generation_enters_few_files(tmp_path: Path):
    """Red when the way from noise to a picture leads through more files than the limit."""
    files = generate(tmp_path)
    assert {"outputs.py", "pipeline/model.py", "diffusion/ddim.py", "vae/model.py"} <= set(files)
    assert len(files) <= GENERATE_LIMIT, files


def test_a_call_enters_a_file_and_an_import_does_not():
    """Red when importing counts, or a call does not."""
    assert entered(lambda: None) == []
    assert entered(lambda: parse_json(b"{}", "a test")) == ["files.py"]


def test_the_package_has_few_files():
    """Red when a file is added without another one being merged, or without being named here as that of a feature."""
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}
    studio = {file for file in files if file.startswith("studio/")}
    scale = {file for file in files if file.startswith("scale/")}
    assert len(files - studio - scale - ADDED) <= FILES
    assert len(studio) <= STUDIO_FILES
    assert len(scale) <= SCALE_FILES
