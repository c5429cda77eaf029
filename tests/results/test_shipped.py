"""What shipped models are measured by: fair sets, copies found, bytes kept, and one line for what cannot be."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from jeppa.data import to_x, write_png
from jeppa.lab.evaluate import Evaluation
from jeppa.lpips import load_lpips
from jeppa.pipeline import SamplerSettings, load_model
from results.claims.verdict import Promise
from results.record import show_interval
from results.shipped import codecs, denoisers, features, neighbours, vae, vae_table
from results.shipped.codecs import CODECS, compress
from results.shipped.features import measure_accuracies, measure_chance, train_classifier
from results.shipped.pictures import Pictures, draw_samples, spread_labels


def pictures(count: int, seed: int, side: int = 64) -> Pictures:
    """Smooth noise, labelled a and b in turn."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return Pictures(coarse.repeat(side // 8, 1).repeat(side // 8, 2), np.array(["a", "b"] * count)[:count])


def write_pictures(folder: Path, labels: tuple[str, ...], count: int, side: int = 32) -> None:
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for index, pixels in enumerate(pictures(count, number, side).pixels):
            write_png(pixels, folder / label / f"{index}.png")


def test_every_beginning_of_the_samples_has_the_shares_of_the_training_pictures():
    """Red when labels are drawn at random, or one after the other."""
    labels = np.array(["a"] * 700 + ["b"] * 250 + ["c"] * 50)
    np.random.default_rng(0).shuffle(labels)
    found = spread_labels(labels, 400)
    for count in range(1, 401):
        had = Counter(found[:count].tolist())
        assert all(abs(had[label] - share * count) < 2.0 for label, share in (("a", 0.7), ("b", 0.25), ("c", 0.05)))


def test_points_lie_as_far_apart_as_lpips_says():
    """Red when the root of a weight, the mean over places or the clamp of the range is wrong."""
    a, b = (next(pictures(3, seed).batches()) for seed in (0, 1))
    space = neighbours.load_space()
    found = neighbours.measure_distances(space.embed(a), space.embed(b))
    assert found.diagonal().tolist() == pytest.approx(load_lpips("alex")(a, b).tolist(), rel=1e-4)


def test_a_mirrored_copy_is_found():
    """Red when training pictures are not mirrored, or distances are mixed up between them."""
    train = pictures(60, 0)
    copies = Pictures(train.pixels[[55, 3]], train.labels[:2])
    copies.pixels[0] = copies.pixels[0][:, ::-1]
    found = neighbours.find_neighbours(copies, train)
    assert found.distance.argmin(1).tolist() == [55, 3]
    assert found.nearest == pytest.approx(0.0, abs=1e-4)
    assert [bool(found.mirrored[0, 55]), bool(found.mirrored[1, 3])] == [True, False]
    assert np.sort(found.distance[0])[1] > 0.01


def test_samples_as_near_as_held_out_pictures_are_near_for_one_in_twenty():
    """Red when the quantile is that of the samples, or the side is swapped."""
    rng = np.random.default_rng(0)
    heldout, alike = (rng.uniform(0.2, 0.4, 2000).astype(np.float32) for _ in range(2))
    found = neighbours.measure_closeness(alike, heldout)
    low, high = found["share_near_ci95"]
    assert low < 0.05 < high
    assert high - low < 0.06
    assert neighbours.measure_closeness(np.zeros(64, np.float32), heldout)["share_near"] == 1.0
    assert neighbours.measure_closeness(alike + 1.0, heldout)["share_near"] == 0.0


def test_sets_are_of_one_size_and_no_picture_is_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    """Features are names here. Red when sides overlap, or the samplers do not share seeds and pictures."""
    calls = []

    def compare(first: np.ndarray, second: np.ndarray) -> float:
        calls.append((first.ravel().tolist(), second.ravel().tolist()))
        return float(first.sum() % 1000 + second.sum())

    monkeypatch.setattr(features, "frechet_distance", compare)
    train, heldout = np.arange(40.0)[:, None], np.arange(100.0, 112.0)[:, None]
    samples = np.arange(200.0, 230.0)[:, None]
    found = features.measure_distances(train, train, heldout, {"one": samples, "other": samples + 1000.0}, draws=5)
    assert {len(first) for first, _ in calls} == {12, 15}
    assert all(len(set(first)) == len(set(second)) == len(first) == len(second) for first, second in calls)
    assert all(not set(first) & set(second) for first, second in calls)
    assert list(found["one"]) == ["12 held-out pictures", "12 training pictures", "15 training pictures"]
    assert found["one"] == found["other"]
    assert found[features.TRAINING] == found[features.ROUND_TRIP]
    assert len({*found["one"]["12 training pictures"]}) > 1, "all draws are the same set"


def test_the_classifier_learns_from_training_pictures_and_tells_chance():
    """Three classes that lie apart. Red when labels of mirror images lie at wrong rows."""
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c", "c"] * 30)
    features = rng.normal(size=(120, 8)).astype(np.float32)
    features[labels == "a", 0] += 8.0
    features[labels == "b", 0] -= 8.0
    classifier = train_classifier(features, np.concatenate([features[:, :1], features[:, :0:-1]], axis=1), labels)
    rows, right = measure_accuracies(classifier, {"same": (features, labels), "wrong": (features, np.roll(labels, 1))})
    assert rows["same"]["mean"] > 0.95
    assert rows["wrong"]["mean"] < 0.4
    assert right["same"].mean() == rows["same"]["mean"]
    assert measure_chance(labels) == {"any": pytest.approx(1 / 3), "most_frequent": 0.5}


@pytest.mark.parametrize("name", list(CODECS))
def test_a_coded_picture_has_the_best_quality_that_fits(name: str):
    """Red when the bisection is off by one, or when a file that is too large counts as fitting."""
    pixels, codec = pictures(1, 0).pixels[0], CODECS[name]
    budget = compress(pixels, codec, 10**9).size * 2 // 3
    found = compress(pixels, codec, budget)
    assert found.fits
    assert found.size <= budget
    again = compress(pixels, codec, found.size - 1)
    assert again.quality < found.quality
    least = compress(pixels, codec, 20)
    assert (least.fits, least.quality) == (False, codec.qualities[0])
    assert least.size > 20


def test_a_byte_a_number_is_all_that_is_kept_of_a_latent():
    """Red when there are more than 255 steps, or the step or the cut is wrong."""
    z0 = torch.linspace(-9.0, 9.0, 5001)
    found = codecs.quantise(z0)
    assert len(found.unique()) == 255
    within = z0.abs() <= codecs.REACH
    step = codecs.REACH / codecs.LEVELS
    assert (found - z0)[within].abs().max().item() == pytest.approx(step / 2, rel=0.05)
    assert found.abs().max().item() == pytest.approx(codecs.REACH)


def test_what_was_asked_for_is_decided_by_the_interval_and_a_missing_figure_by_nothing():
    """Red when the estimate decides alone, or a figure without interval counts."""
    promise = Promise(low=26.0)
    assert vae_table.judge(27.0, [26.5, 27.5], promise) == "confirmed"
    assert vae_table.judge(27.0, [25.5, 27.5], promise) == "undecided"
    assert vae_table.judge(27.0, [None, None], promise) == "undecided"
    assert show_interval(math.nan, [1.0, 2.0]) == show_interval(None, None) == "-"


def test_the_bound_of_one_variance_is_that_of_the_residuals():
    """Against the mean log-density of torch. Red when dequantisation, the scale of pixels or the rate is dropped."""
    rng = np.random.default_rng(0)
    residual = rng.normal(0.0, 0.02, 200_000)
    rows = [{"psnr": 10.0 * math.log10(4.0 / np.square(half).mean())} for half in np.split(residual, 2)]
    pixels = torch.from_numpy(residual + (rng.random(len(residual)) - 0.5) / 127.5)
    nats = -torch.distributions.Normal(0.0, pixels.square().mean().sqrt()).log_prob(pixels).mean()
    expected = float(nats) / math.log(2.0) + math.log2(127.5) + 0.1
    evaluation = Evaluation({"rate_bpd": 0.1}, rows, {})
    assert vae.bound_constant(evaluation) == pytest.approx(expected, abs=5e-4)


def test_samples_that_are_kept_belong_to_one_model_label_and_seed(diffusion_folder: Path, tmp_path: Path):
    """Red when a picture has another seed's place or label, or kept samples serve other settings."""
    model = load_model(diffusion_folder)
    labels = np.array([model.labels[0], model.labels[1], model.labels[0]])
    settings = SamplerSettings(steps=2)
    found = draw_samples(model, settings, labels, tmp_path)
    alone = next(model.generate([2], settings.model_copy(update={"label": model.labels[0]})))
    assert (to_x(found.pixels[2]) - alone.x.clamp(-1, 1)).abs().max() < 0.02
    (kept,) = tmp_path.iterdir()
    np.save(kept, np.zeros_like(found.pixels))
    assert draw_samples(model, settings, labels, tmp_path).pixels.max() == 0, "drawn again"
    assert draw_samples(model, SamplerSettings(steps=3), labels, tmp_path).pixels.max() > 0
    assert draw_samples(model, settings, np.roll(labels, 1), tmp_path).pixels.max() > 0


def test_a_denoiser_is_measured_from_end_to_end(
    diffusion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The record, its tables and both sheets; other data are refused in one line. Red when any part is not written."""

    def cheap(shown: Pictures, mirrored: bool = False) -> np.ndarray:
        pixels = shown.pixels[:, :, ::-1] if mirrored else shown.pixels
        return pixels[:, ::8, ::8].reshape(len(pixels), -1) / 255.0

    monkeypatch.setattr(denoisers, "compute_features", cheap)
    monkeypatch.setattr(denoisers, "REPEATS", 1)
    monkeypatch.setattr(denoisers, "FEW_STEPS", 3)
    monkeypatch.setattr(neighbours, "RESAMPLES", 20)
    labels = load_model(diffusion_folder).labels
    write_pictures(tmp_path / "data" / "train", labels, 3)
    write_pictures(tmp_path / "data" / "val", labels[:2], 4)
    arguments = [
        str(diffusion_folder),
        "--name",
        "tiny",
        "--steps",
        "2",
        "--samples",
        "64",
        "--work",
        str(tmp_path / "work"),
    ]
    arguments += ["--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs"), "--data"]
    assert denoisers.main([*arguments, str(tmp_path / "data")]) == 0
    shipped = tmp_path / "out"
    record = json.loads((shipped / "tiny.json").read_text())
    assert record["counts"] == {"samples": 64, "train": 3 * len(labels), "heldout": 8}
    assert len(record["sheet"]["labels"]) == 64
    assert (tmp_path / "docs" / record["sheet"]["file"]).is_file()
    assert (shipped / "tiny-neighbours.png").is_file()
    text = (shipped / "tiny.md").read_text()
    assert "nan" not in text
    assert text.count("| learned variance, 3 steps |") == 2
    (tmp_path / "data" / "train" / labels[0]).rename(tmp_path / "data" / "train" / "another")
    capsys.readouterr()
    assert denoisers.main([*arguments, str(tmp_path / "data")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_vae_stands_beside_its_peer_and_the_codecs(vae_folder: Path, tmp_path: Path):
    """A model is its own peer here. Red when pictures are paired wrongly, or bytes are not those of the latent."""
    write_pictures(tmp_path / "train", ("a",), 1)
    write_pictures(tmp_path / "val", ("a", "b"), 2)
    models = dict.fromkeys(("ours", "peer"), load_model(vae_folder))
    found = vae.measure_set(models, "tiny", str(tmp_path), 64, None)
    assert (found["count"], found["latent_bytes"]) == (4, 4 * 8 * 8)
    assert found["paired"]["psnr"] == [0.0, [0.0, 0.0]]
    assert found["lines"][codecs.LATENT]["psnr"] == pytest.approx(found["metrics"]["ours"]["psnr"], abs=0.3)
    assert found["rate_bytes"]["ours"] == pytest.approx(found["metrics"]["ours"]["rate_bpd"] * 64 * 64 * 3 / 8)
    assert vae.list_differences(vae_folder, vae_folder) == []
    record = {
        "name": "tiny", "command": "c", "commit": None, "machine": {"processor": "p", "cores": 2, "torch": "t"},
        "models": {name: vae.describe_model(model) for name, model in models.items()}, "differing": [],
        "sets": {"tiny": found | {"resolution": 512}},
    }  # fmt: skip
    text = vae_table.render(record)
    assert "| psnr | tiny | above 26 |" in text
    assert "nan" not in text
