from pathlib import Path

import pytest

from jeppa.config import PRESETS, DiffusionRun, VAEConfig, VAERun, dump_yaml, load_run, parse
from jeppa.errors import ConfigError
from jeppa.files import read_yaml


@pytest.mark.parametrize("config", [VAERun(), VAERun(preset="tiny", model=PRESETS["tiny"]), DiffusionRun(vae="run")])
def test_yaml_gives_back_equal_settings(config: VAERun | DiffusionRun, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_run(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"lieklihood": "shared"}, "did you mean 'likelihood'"),
        ({"optim": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        ({"optim": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"optim": {"learning_rate": -1.0}}, "greater than 0"),
        ({"data": {"resolution": 60}}, "multiple of 8"),
        ({"preset": "huge"}, "'tiny', 'small' or 'sd'"),
        ({"preset": "small", "model": PRESETS["tiny"].model_dump()}, "set preset to null"),
        ({"likelihood": "magic"}, "'student-t', 'band' or 'band-beta'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(values: dict[str, object], part: str):
    with pytest.raises(ConfigError, match=part) as caught:
        parse(VAERun, values, "run.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("run.yaml: ")


def test_an_architecture_of_no_known_factor_is_refused():
    with pytest.raises(ConfigError, match="shrinks an image 64 times"):
        parse(VAEConfig, {**PRESETS["tiny"].model_dump(), "block_out_channels": (16, 16, 16, 16)}, "x")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x [1]\nb: *x\n", "alias or anchor at key 'a'"),
        ("a: 1\na: 2\n", "key 'a' twice"),
        ("[1, 2]", "mapping"),
        ("a: [", "not valid YAML"),
        ("x" * 70_000, "64 KiB"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(text: str, part: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
