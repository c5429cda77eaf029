"""The code in both READMEs runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_python_of_the_readme_runs(
    name: str, vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "vae").symlink_to(vae_folder)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    assert (tmp_path / "recon.png").exists()
    assert "camera.png" in capsys.readouterr().out


def test_both_readmes_show_the_same_commands_and_figures():
    """Red when a command or a figure is changed in one language only."""
    english, russian = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ru.md"))
    commands = re.compile(r"^\.venv/bin/jeppa .*$", re.MULTILINE)
    assert commands.findall(english) == commands.findall(russian)
    figures = re.compile(r"\d+\.\d+")
    assert figures.findall(table(english)) == figures.findall(table(russian))
    assert "%%" not in english + russian


def table(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))
