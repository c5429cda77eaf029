"""What the page's buttons do, asked as any client can: the named API of the studio."""

import io
import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from foreign_vaes import save_vae
from PIL import Image
from studio_origin import png

from jeppa.config import SamplerSettings
from jeppa.data import read_settings
from jeppa.data.images import to_pixels
from jeppa.errors import ConfigError
from jeppa.outputs import generate_files
from jeppa.pipeline import draw_again, load_model
from jeppa.studio.first import PHOTOS, FirstLook
from jeppa.studio.server import open_port


def call(client, name: str, *values, language: str = "en"):
    """Ask for an action by name and wait for its last answer."""
    told = client.post(f"/{language}/gradio_api/call/{name}", json={"data": list(values)})
    assert told.status_code == 200, told.text
    answer = client.get(f"/{language}/gradio_api/call/{name}/{told.json()['event_id']}")
    event, data = "", None
    for line in answer.text.splitlines():
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            data = json.loads(line[6:])
            if event in ("complete", "generating"):
                last = data
    assert event == "complete", answer.text[-500:]
    return data if data is not None else last


def drop(client, content: bytes) -> dict:
    answer = client.post("/pictures", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pixels(client, token: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(f"/shelf/{token}").content)).convert("RGB"))


@pytest.fixture(scope="session")
def model_name(diffusion_folder: Path) -> str:
    return str(diffusion_folder)


def test_a_look_shows_the_original_bit_for_bit_and_reads_a_pixel(client, model_name: str):
    dropped = drop(client, png())
    viewer, status, *_ = call(client, "look", {"token": dropped["token"]}, model_name, "512", 0.9)
    assert np.array_equal(pixels(client, viewer["original"]), np.asarray(Image.open(io.BytesIO(png()))))
    assert "40 × 24 pixels" in status["text"]
    told = client.get(f"/shelf/{viewer['readout']}/pixel", params={"row": 3, "column": 5}).json()
    assert told["value"] == pixels(client, viewer["original"])[3, 5].tolist()
    assert told["low"][0] < told["mean"][0] < told["high"][0]
    assert client.get(f"/shelf/{viewer['readout']}/pixel", params={"row": 99, "column": 5}).status_code == 422


@pytest.mark.parametrize(("language", "words"), [("en", "no sigma head"), ("ru", "нет головы сигмы")])
def test_a_vae_without_a_sigma_head_is_shown_without_a_map(client, language: str, words: str, tmp_path: Path):
    """Red when the one variance that nobody measured is shown, read out or drawn from as if it were sigma."""
    name = str(save_vae("sd1", tmp_path / "vae"))
    call(client, "use_run", name, language=language)
    asked = ({"token": drop(client, png())["token"]}, name, "512", 0.9)
    viewer, status, *_ = call(client, "look", *asked, language=language)
    assert words in status["text"]
    assert "127" not in status["text"]
    assert not {"sigma", "covered", "coverage"} & viewer.keys()
    told = client.get(f"/shelf/{viewer['readout']}/pixel", params={"row": 3, "column": 5}).json()
    assert told["value"] == pixels(client, viewer["original"])[3, 5].tolist()
    assert (told["sigma"], told["low"], told["high"]) == (None, None, None)
    _, status, *_ = call(client, "draw_again", *asked, viewer, 1, 0, language=language)
    assert status["kind"] == "error"
    assert "jeppa adapt" in status["text"]


def test_the_same_seed_gives_the_pixels_of_the_command_line(client, model_name: str, tmp_path: Path):
    """Red when the page samples otherwise than `jeppa generate`."""
    settings = SamplerSettings(steps=3, variance="learned")
    generate_files(load_model(model_name), tmp_path, 1, 11, settings)
    _, gallery, status = call(client, "generate", model_name, "", 11, 3, 0, 1, "learned", 1, 1, 1, 0, "all")
    (item,) = gallery["items"]
    expected = np.asarray(Image.open(tmp_path / "000011.png"))
    assert np.array_equal(pixels(client, item["token"]), expected)
    assert status["text"] == "Done. Pictures: 1."
    carried = read_settings(client.get(f"/shelf/{item['token']}").content)
    of_command = read_settings(tmp_path / "000011.png")
    assert {key: value for key, value in carried.items() if key != "model"} == {
        key: value for key, value in of_command.items() if key != "model"
    }
    again = drop(client, client.get(f"/shelf/{item['token']}").content)
    assert json.loads(again["settings"]["seed"]) == 11


@pytest.mark.parametrize(
    ("change", "field"),
    [({2: 10**9 * 10}, "Seed"), ({3: 10**9}, "Steps"), ({3: 2.5}, "Steps"), ({4: -1}, "Eta"), ({7: "x"}, "Temperature"),
     ({8: True}, "Pictures"), ({9: None}, "Share to keep"), ({3: {"a": 1}}, "Steps"), ({10: -1}, "Texture")],
)  # fmt: skip
def test_a_bad_setting_is_told_by_its_name(client, model_name: str, change: dict, field: str):
    values = [model_name, "", 0, 2, 0, 1, "learned", 1, 1, 1, 0, "none"]
    for at, value in change.items():
        values[at] = value
    *_, status = call(client, "generate", *values)
    assert status["kind"] == "error"
    assert field in status["text"]


def test_an_error_is_told_in_the_language_of_the_page(client, model_name: str):
    *_, status = call(
        client, "generate", model_name, "dragon", 0, 2, 0, 1, "learned", 1, 1, 1, 0, "none", language="ru"
    )
    assert status["text"].startswith("Настройка не подходит.")
    _, status, *_ = call(client, "look", {"token": "gone"}, model_name, "512", 0.9, language="ru")
    assert status["text"].startswith("Картинки ещё нет")


def test_a_model_folder_that_is_gone_is_told_and_the_rest_goes_on(
    client, tmp_path: Path, vae_folder: Path, model_name: str
):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(vae_folder, copy)
    assert call(client, "use_run", str(copy))[0]["kind"] == ""
    shutil.rmtree(copy)
    dropped = drop(client, png())
    _, status, *_ = call(client, "look", {"token": dropped["token"]}, str(copy), "512", 0.9)
    assert status["text"].startswith("This model cannot be used.")
    _, status, *_ = call(client, "look", {"token": dropped["token"]}, model_name, "512", 0.9)
    assert status["kind"] == ""


def test_a_painted_change_stays_inside_the_mask(client, model_name: str):
    dropped = drop(client, png())
    mask = np.zeros((24, 40, 3), np.uint8)
    mask[6:18, 10:30] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    painted = drop(client, buffer.getvalue())
    viewer, status = call(
        client, "paint", {"token": dropped["token"]}, {"token": painted["token"]}, model_name, "draw", 1, 1, 0, None
    )
    before, after = pixels(client, viewer["original"]), pixels(client, viewer["layers"][0]["token"])
    assert np.array_equal(before[mask[..., 0] == 0], after[mask[..., 0] == 0])
    assert not np.array_equal(before, after)
    assert "Outside: 0 changed" in status["text"]


def test_a_blend_ends_in_a_loop(client, model_name: str):
    first, second = (drop(client, png(seed=seed)) for seed in (1, 2))
    ends = [{"token": one["token"]} for one in (first, second)]
    loop, strip, _ = call(client, "blend", *ends, model_name, "fade", 3, "128", 2)
    assert [one["label"] for one in strip["items"]] == ["0 %", "50 %", "100 %"]
    gif = loop.split('download href="')[1].split('"')[0]
    with Image.open(io.BytesIO(client.get(gif).content)) as image:
        assert image.format == "GIF"
        assert image.n_frames == 4


def test_the_shelf_forgets_what_was_not_used_for_longest():
    from jeppa.studio.shelf import Kept, Shelf

    shelf = Shelf(capacity=300)
    first, second = (shelf.put(Kept(bytes(100))) for _ in range(2))
    assert shelf.get(first) is not None
    shelf.put(Kept(bytes(150)))
    assert shelf.get(second) is None
    assert shelf.get(first) is not None
    assert shelf.size() == 250


def test_both_languages_have_the_same_keys_and_places():
    import string

    from jeppa.studio.texts import words

    english, russian = words("en"), words("ru")
    assert english.keys() == russian.keys()
    for key, text in english.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(one) if name} for one in (text, russian[key])]
        assert names[0] == names[1], key


def test_the_first_picture_of_another_process_is_that_of_this_one(client, model_name: str):
    """Red when the two look at another photograph, size or interval; whatever else is asked for is not answered."""
    with FirstLook(model_name, "exact") as first:
        chosen = {"builtin": PHOTOS[0]}
        assert first.take(chosen, model_name, "512", 0.8) is None
        assert first.take({"builtin": PHOTOS[1]}, model_name, "512", 0.9) is None
        sheets = first.take(chosen, model_name, "512", 0.9)
    assert sheets is not None
    viewer, status, *_ = call(client, "look", chosen, model_name, "512", 0.9)
    for mine, token in ((sheets.original, "original"), (sheets.reconstruction, "show"), (sheets.sigma, "sigma")):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(mine)).convert("RGB")), pixels(client, viewer[token]))
    assert f"{sheets.mean:.1f} levels" in status["text"]


def test_the_page_is_made_without_waiting_for_torch():
    """Red when a module of the studio imports a model's libraries before they are needed."""
    code = "import sys, jeppa.studio.server; print({'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"port \d+ cannot be used .* leave --port out"):
            open_port(taken.getsockname()[1])
    with pytest.raises(ConfigError, match="port is 70000"):
        open_port(70000)


def test_the_sampling_is_the_library_s(client, model_name: str):
    """The command line is compared above; here the library, with another seed, a grid and a drawn reconstruction."""
    model = load_model(model_name)
    (sample,) = model.generate([5], SamplerSettings(steps=2, variance="learned"))
    _, gallery, _ = call(client, "grid", model_name, "", 5, 9, 0, 1, "learned", 1, 1, 1, 0, "steps", "2, 3")
    assert np.array_equal(pixels(client, gallery["items"][0]["token"]), to_pixels(sample.x))
    assert json.loads(read_settings(client.get(f"/shelf/{gallery['items'][0]['token']}").content)["steps"]) == 2
    dropped = drop(client, png())
    viewer, *_ = call(client, "draw_again", {"token": dropped["token"]}, model_name, "512", 0.9, None, 1, 3)
    original = np.asarray(Image.open(io.BytesIO(png())))
    assert np.array_equal(pixels(client, viewer["show"]), draw_again(model, original, 1.0, 3))


def test_frames_are_saved_together(client, model_name: str):
    ends = [{"token": drop(client, png(seed=seed))["token"]} for seed in (1, 2)]
    loop, strip, _ = call(client, "blend", *ends, model_name, "fade", 3, "128", 2)
    archive = loop.split('download href="')[3].split('"')[0]
    with zipfile.ZipFile(io.BytesIO(client.get(archive).content)) as frames:
        assert frames.namelist() == ["frame-000.png", "frame-001.png", "frame-002.png"]
        assert frames.read("frame-001.png") == client.get(f"/shelf/{strip['items'][1]['token']}").content


def test_round_trips_tell_the_drift(client, model_name: str):
    dropped = drop(client, png())
    viewer, _, curve, *_ = call(client, "round_trips", {"token": dropped["token"]}, model_name, "512", 0.9, None, 3)
    assert [one["label"] for one in viewer["layers"]] == [f"After round trip {number}" for number in (1, 2, 3)]
    assert curve.count("<polyline") == 4
