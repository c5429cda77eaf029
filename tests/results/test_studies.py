"""What every study has in common: it starts, its record says where it is from, its tables follow from the record."""

import argparse
import importlib
import json
import math
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import results
from jeppa.errors import DataError
from results.record import (
    markdown_table,
    mean_interval,
    run_study,
    save_record,
    seed_table,
    show_interval,
    study_parser,
)

RESULTS = Path(results.__file__).parent
RENDERERS = {
    "ablations": "ablations", "adapt": "adapt", "architectures": "architectures", "bands": "bands",
    "calibration": "calibration",
    "claims": "claims.ledger", "collapse": "collapse", "compare": "compare", "demo": "demo", "digits": "digits",
    "kills": "kills", "opening": "opening", "oracle": "oracle.table", "runtime": "runtime", "sampler": "sampler.table",
    "scale": "scale.table", "studio": "studio", "tiling": "tiling",
    "stops": "stops", "threads": "threads",
    "shipped/small": "shipped.vae_table", "shipped/photo": "shipped.photo",
    "shipped/halved": "shipped.halved", "shipped/emoji": "shipped.denoiser_report",
    "shipped/grocery": "shipped.denoiser_report",
}  # fmt: skip
"""The module that makes the tables of each committed record."""


def studies() -> dict[str, str]:
    """Module of every study that can be run, by the name that `python -m results.NAME` takes."""
    modules = [module.name for module in pkgutil.walk_packages([str(RESULTS)], "results.")]
    runnable = [name for name in modules if "\ndef main(" in source(name)]
    return {name.removeprefix("results.").removesuffix(".__main__"): name for name in runnable}


def source(module: str) -> str:
    path = RESULTS.parent / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "module"), studies().items())
def test_a_study_starts_and_says_how(name: str, module: str, capsys: pytest.CaptureFixture[str]):
    """Red when a module does not import, an option is declared wrongly, or a docstring names another command."""
    study = importlib.import_module(module)
    with pytest.raises(SystemExit) as ending:
        study.main(["--help"])
    assert ending.value.code == 0
    assert f"usage: python -m results.{name} " in capsys.readouterr().out
    assert f"python -m results.{name}" in study.__doc__
    assert 'if __name__ == "__main__":\n    sys.exit(main())\n' in source(module)


def test_every_study_is_found():
    """Red when the test above runs for fewer studies than there are."""
    assert {name.partition(".")[0] for name in studies()} == {name.partition("/")[0] for name in RENDERERS}


@pytest.mark.parametrize(("record", "module"), RENDERERS.items())
def test_the_committed_tables_are_those_of_the_committed_figures(record: str, module: str):
    """Red when a figure, its digits or its place differs between JSON and Markdown."""
    render = importlib.import_module(f"results.{module}").render
    saved = json.loads((RESULTS / f"{record}.json").read_text())
    rows = table_rows((RESULTS / f"{record}.md").read_text())
    assert len(rows) > 2
    assert table_rows(render(saved)) == rows


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|") and re.search(r"[^|\-\s]", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_a_record_says_where_it_is_from(tmp_path: Path):
    """Red when the command, commit or versions are missing, or the tables are made of other values than the JSON's."""
    parser = study_parser("toy", "A toy.\n\nMore.", tmp_path)
    parser.add_argument("--seeds", type=int)

    def study(options: argparse.Namespace) -> None:
        figures = {"seeds": range(options.seeds)}
        save_record(
            options.command, options.out / "toy", {"seeds": tuple(figures["seeds"])}, lambda record: str(record)
        )

    assert run_study(parser, study, ["--seeds", "2"]) == 0
    record = json.loads((tmp_path / "toy.json").read_text())
    assert record["command"] == "python -m results.toy --seeds 2"
    assert record["seeds"] == [0, 1]
    assert {"processor", "cores", "torch", "numpy"} <= set(record["machine"])
    assert "commit" in record
    assert (tmp_path / "toy.md").read_text() == str(record)


def test_bad_input_is_one_line_and_a_study_may_choose_its_exit_code(tmp_path, capsys, monkeypatch):
    """Red when an error of the user gives a traceback or several lines."""

    def fail(options: argparse.Namespace) -> None:
        raise DataError("no such\nfolder")

    monkeypatch.setattr(sys, "argv", ["toy", "--out", str(tmp_path)])
    assert run_study(study_parser("toy", "A toy."), fail) == 2
    assert capsys.readouterr().err == "no such folder\n"
    assert run_study(study_parser("toy", "A toy."), lambda options: 1) == 1


def test_figures_are_shown_with_what_is_known_of_their_interval():
    """Red when a missing end is shown, or a figure without a value as a number."""
    assert show_interval(1.0, (0.5, 1.5), ".2f") == "1.00 [0.50, 1.50]"
    assert show_interval(1.0, (None, 1.5)) == show_interval(1.0, None) == "1.000"
    assert show_interval(math.nan, (0.0, 1.0), missing="none") == "none"
    assert show_interval(0.25, (-0.5, 1.0), "+.1f") == "+0.2 [-0.5, +1.0]"


def test_a_table_keeps_every_cell_as_it_is():
    """Red when tabulate takes text for numbers, or loses a row that is empty."""
    lines = markdown_table(["", "x"], [["1.50", "007"], ["", "-0.0"]]).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "--" not in line] == [
        ["", "x"], ["1.50", "007"], ["", "-0.0"],
    ]  # fmt: skip
    runs = {"a": [{"psnr": 1.0}, {"psnr": 2.0}], "b": [{"psnr": None}, {"psnr": 2.0}]}
    rows = seed_table("arm", runs, {"psnr": "PSNR"}, ".1f").splitlines()
    assert rows[2:] == ["| a | 1.5 [1.0, 2.0] |", "| b | none |"]


def test_the_interval_of_a_mean_is_students():
    """Of 1, 2, 3: 2 +- 4.303 / sqrt 3. Red with a normal quantile or the deviation over n."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 2.4841, 2.0 + 2.4841), rel=1e-4)
    mean, low, high = mean_interval([5.0])
    assert (mean, math.isnan(low), math.isnan(high)) == (5.0, True, True)
