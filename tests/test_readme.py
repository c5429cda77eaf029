"""The READMEs and the pages of docs/: their code runs, their commands exist, their figures and links are true."""

import re
import shlex
from pathlib import Path

import pytest

from jeppa.cli import app

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.ru.md")
PAGES = tuple(sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))
SERVED = ("docs/studio.md",)
"""Pages whose program talks to a studio that runs."""
ENGLISH = tuple(name for name in ("README.md", *PAGES) if not name.endswith(".ru.md"))
LINKED = (
    *READMES, *PAGES, "CONTRIBUTING.md", "CHANGELOG.md",
    *(path.relative_to(ROOT).as_posix() for folder in ("results", "recipes") for path in (ROOT / folder).rglob("*.md")),
)  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def in_russian(name: str) -> str:
    return read(name.removesuffix(".md") + ".ru.md")


def commands(text: str) -> list[str]:
    return re.findall(r"^\.venv/bin/jeppa (.*)$", text.replace("\\\n", " "), re.MULTILINE)


def table(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def figures(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+", text)


def with_points(russian: str) -> str:
    """Decimal commas as points; the range [-1,1] stays."""
    return re.sub(r"\b(\d+),(\d)(?!\])", r"\1.\2", russian)


def run_python(name: str) -> int:
    """Run a page's blocks of Python in one namespace; returns how many there are."""
    blocks = re.findall(r"```python\n(.*?)```", read(name), re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    return len(blocks)


@pytest.mark.parametrize("name", READMES)
def test_python_of_the_readme_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert run_python(name) == 1
    assert (tmp_path / "recon.png").exists()
    assert "camera.png" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in PAGES if "```python" in read(name) and name not in SERVED])
def test_python_of_the_pages_runs(name: str, vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "vae").symlink_to(vae_folder)
    monkeypatch.chdir(tmp_path)
    assert run_python(name) == 1


def test_every_command_that_is_shown_can_be_parsed():
    """Red when a command or a flag gets another name, or takes other values."""
    shown = [line for name in (*READMES, *PAGES) for line in commands(read(name))]
    assert len(shown) >= 20
    for line in shown:
        app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", ENGLISH)
def test_both_languages_show_the_same_commands_figures_and_sections(name: str):
    """Red when a command, a figure of a table, or a section is changed in one language only."""
    english, russian = read(name), in_russian(name)
    assert commands(english) == commands(russian)
    assert figures(table(english)) == figures(with_points(table(russian)))
    assert re.findall(r"^#+ ", english, re.MULTILINE) == re.findall(r"^#+ ", russian, re.MULTILINE)
    assert table(english).count("\n") == table(russian).count("\n")


def test_decimals_have_a_comma_in_russian_and_a_point_in_english():
    assert not re.search(r"\d,\d", table(read("README.md")))
    assert not re.search(r"\d\.\d", table(read("README.ru.md")))


def test_the_table_of_the_readme_is_that_of_the_record():
    """Red when the shipped VAE is measured anew and the README keeps the old figures."""
    cells = re.findall(r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]", table(read("README.md")))
    assert len(cells) == 11
    record = read("results/shipped/photo.md")
    assert [cell for cell in cells if cell not in record] == []


def test_the_count_of_promises_is_that_of_the_ledger():
    verdicts = re.findall(r"\| \*\*(\w+)\*\* \| `", read("results/claims.md"))
    confirmed, refuted, undecided = map(verdicts.count, ("confirmed", "refuted", "undecided"))
    said = f"Of {len(verdicts)}, {confirmed} are confirmed, {refuted} refuted and {undecided} undecided"
    assert said in " ".join(read("results/README.md").split())
    numbers = [str(number) for number in (len(verdicts), confirmed, refuted, undecided)]
    for name, start in (("README.md", r"Of (\d+) \[tests"), ("README.ru.md", r"Из (\d+) \[проверок")):
        sentence = re.search(start + r"[^.]*\.md\)(.*?)\.", read(name), re.DOTALL)
        assert sentence is not None
        assert [sentence[1], *re.findall(r"\d+", sentence[2])] == numbers


@pytest.mark.parametrize("name", LINKED)
def test_links_within_the_repository_lead_somewhere(name: str):
    links = re.findall(r"\]\((?![a-z]+:)([^)#]*)(#[^)]*)?\)", read(name))
    for target, anchor in links:
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in [heading_anchor(line) for line in read_lines(path)], f"{target}{anchor}"


def test_files_that_the_pages_name_exist():
    """Red when a module moves and a page still sends the reader to its old place."""
    for name in (*READMES, *PAGES, "CONTRIBUTING.md", "results/README.md", "recipes/README.md"):
        for path in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", read(name)):
            assert any((folder / path).exists() for folder in (ROOT, ROOT / "src" / "jeppa", (ROOT / name).parent)), (
                f"{name}: {path}"
            )


def test_studies_that_the_pages_name_can_be_run():
    shown = {study for name in LINKED for study in re.findall(r"python -m (results\.[a-z_.]+)", read(name))}
    assert len(shown) >= 10
    for study in shown:
        path = ROOT.joinpath(*study.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), study


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def heading_anchor(line: str) -> str:
    """The anchor of a heading, as the site and code hosts make it: of a link its text alone."""
    if not line.startswith("#"):
        return ""
    text = re.sub(r"\]\([^)]*\)", "]", line.lstrip("# ")).lower()
    return "#" + re.sub(r"[^\w -]", "", text).strip().replace(" ", "-")
