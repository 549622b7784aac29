"""The app as scripts see it: its endpoints through `gradio_client`, what they refuse, and what they never do."""

from __future__ import annotations

import csv
import ctypes
import functools
import gc
import hashlib
import inspect
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import app
from t4s import Segmenter, codec
from t4s.app import downloads, examples, explainer, service, views
from t4s.errors import CheckpointError, QueryError
from t4s.imaging import export
from t4s.imaging.loading import open_photo
from t4s.records import Prediction
from t4s.refine import sam
from t4s.refine.refiner import refine as refine_grid
from tests.imaging.test_export import filled, strict_geojson
from tests.support import stand_in
from tests.support.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"
ENDPOINTS = {  # name: parameters; a script that uses them must not break
    "/segment": ["image", "phrase", "refiner", "decoding"],
    "/segment_classes": ["image", "names", "refiner", "decoding"],
    "/encode_mask": ["mask", "label", "height", "width", "layout"],
    "/decode_text": ["text", "height", "width", "layout"],
    "/batch": ["images", "phrases", "refiner"],
}
EVERYTHING = {"text", "labels", "rows", "box", "score", "present", "faults", "stats", "coco_rle"}


@pytest.fixture(scope="module")
def segmenter() -> stand_in.StandIn:
    return stand_in.StandIn()


@pytest.fixture(scope="module")
def address(segmenter: stand_in.StandIn) -> Iterator[str]:
    blocks = app.build(segmenter).queue(max_size=64)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **app.LAUNCH)
    yield url
    blocks.close()


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def _mask(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


# --- the endpoints ------------------------------------------------------------------------------------


def test_endpoints_keep_their_names_and_parameters(client: Client):
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert {name: [each["parameter_name"] for each in entry["parameters"]] for name, entry in told.items()} == ENDPOINTS


def test_segment_grows_and_ends_with_everything(client: Client):
    job = client.submit(handle_file(CATS), "cat", api_name="/segment")
    text, grid, mask, result = job.result(timeout=60)
    steps = job.outputs()
    texts = [step[0] for step in steps]
    assert len(steps) > 2 and all(new.startswith(old) for old, new in zip(texts, texts[1:], strict=False))
    assert result.keys() >= EVERYTHING and result["finished"] and not steps[0][-1]["finished"]
    assert codec.decode(text, (16, 16)) == codec.DescriptorGrid(np.array(result["rows"]), tuple(result["labels"]))
    size = Image.open(CATS).size
    assert Image.open(mask).size == size and Image.open(grid).size == size
    assert set(np.unique(_mask(mask))) == {0, 255}
    assert (coco.decode(result["coco_rle"]).astype(bool) == (_mask(mask) == 255)).all()
    assert result["present"] and not result["faults"] and result["stats"]["tokens"] > 0


def test_absence_is_an_answer_and_no_error(client: Client):
    _, _, mask, result = client.predict(handle_file(CATS), "elephant", api_name="/segment")
    assert result["present"] is False and result["box"] is None and not _mask(mask).any()


def test_classes_come_with_a_label_map(client: Client):
    _, _, picture, result = client.predict(handle_file(RIDERS), "horse, person, horse, ", api_name="/segment_classes")
    ids = _mask(picture)
    for label in ("horse", "person"):
        mask = coco.decode(result["masks"][label]).astype(bool)
        assert mask.any() and (mask == (ids == result["labels"].index(label))).all()


@pytest.mark.parametrize("layout", codec.LAYOUTS)
def test_a_mask_becomes_text_and_the_text_its_grid_again(client: Client, tmp_path: Path, layout: str):
    mask = np.zeros((48, 96), np.uint8)
    mask[12:40, 20:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    text, written = client.predict(handle_file(tmp_path / "mask.png"), "a dog", 12, 24, layout, api_name="/encode_mask")
    assert written["rows"] == codec.grid_from_mask(mask > 0, "a dog", (12, 24)).ids.tolist()
    assert written["sizes"].keys() == set(codec.LAYOUTS)
    _, read = client.predict(text, 12, 24, layout, api_name="/decode_text")
    assert read["valid"] and read["rows"] == written["rows"] and read["labels"] == ["others", "a dog"]


def test_an_indexed_mask_names_its_colours_and_loses_vocs_edge(client: Client, tmp_path: Path):
    ids = np.zeros((32, 32), np.uint8)
    ids[:, :8], ids[:, 8:10], ids[:, 24:] = 7, 255, 12
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    picture.putdata(ids.ravel())
    picture.save(tmp_path / "voc.png")
    _, written = client.predict(handle_file(tmp_path / "voc.png"), "cat, sofa", 4, 4, api_name="/encode_mask")
    assert written["labels"] == ["others", "cat", "sofa"] and written["rows"][0] == [1, 0, 0, 2]


def _mask_files(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """name: (a mask's file, the class map that it means)"""
    truth = np.zeros((24, 32), np.int32)
    truth[4:20, 6:14], truth[8:16, 20:30] = 1, 2
    inside = truth > 0
    photo = np.random.default_rng(0).integers(1, 256, (24, 32, 3), np.uint8)
    made = {
        "one bit": (Image.fromarray(inside), inside),
        "8 bits": (Image.fromarray(truth.astype(np.uint8)), truth),
        "16 bits": (Image.fromarray(truth.astype(np.uint16) * 300), truth),  # above what 8 bits hold
        "two colours": (Image.fromarray(np.array([[0, 0, 0], [0, 0, 128], [0, 128, 0]], np.uint8)[truth]), truth),
        "colours on nothing": (Image.fromarray(
            np.array([[9, 9, 9, 0], [0, 0, 128, 255], [0, 128, 0, 255]], np.uint8)[truth], "RGBA"), truth),
        "a cut-out": (Image.open(io.BytesIO(export.cutout_png(photo, inside))), inside),
        "a blurred drawing": (Image.fromarray(np.where(inside, photo[..., 0] // 4 + 180, photo[..., 0] // 4)), inside),
    }  # fmt: skip
    for name, (picture, _) in made.items():
        picture.save(folder / f"{name}.png")
    return {name: (folder / f"{name}.png", truth) for name, (_, truth) in made.items()}


def test_a_mask_is_read_from_whatever_png_it_is_drawn_in(tmp_path: Path):
    """16 bits were cut to 8, which emptied small indexes; what is transparent was laid on white and became a class."""
    for name, (file, truth) in _mask_files(tmp_path).items():
        classes, values = views.read_mask(str(file))
        assert (np.searchsorted([0, *values], classes) == truth).all(), name


def test_an_image_in_the_address_itself_is_taken_to_the_letter(tmp_path: Path):
    """Gradio turns such a picture into lossy WebP, after which a mask has other values."""
    import base64

    from gradio.data_classes import ImageData

    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    payload = ImageData(url=f"data:image/png;base64,{base64.b64encode(data).decode()}")
    assert Path(app.Photo(type="filepath").preprocess(payload)).read_bytes() == data


def test_the_servers_own_network_is_not_to_be_fetched_from(client: Client):
    with pytest.raises(AppError):
        client.predict(handle_file("http://127.0.0.1:9/photo.jpg"), "cat", api_name="/segment")
    with pytest.raises(AppError):
        client.predict({"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}, api_name="/encode_mask")


def test_faults_are_told_and_mended(client: Client):
    text = "others *4\n others *1| cat *9\n others *2| c"
    _, read = client.predict(text, 3, 4, api_name="/decode_text")
    grid, faults = codec.repair(text, (3, 4))
    assert not read["valid"] and read["rows"] == grid.ids.tolist()
    assert [fault["message"] for fault in read["faults"]] == [fault.message for fault in faults]


def test_a_batch_reports_the_bad_file_and_does_the_rest(client: Client, tmp_path: Path):
    (tmp_path / "broken.jpg").write_text("no image")
    files = [handle_file(RIDERS), handle_file(tmp_path / "broken.jpg"), handle_file(CATS)]
    path, result = client.predict(files, "cat\nperson\n\n", api_name="/batch")
    assert [(each["file"], each["query"]) for each in result["results"]] == [
        (photo.name, phrase) for photo in (RIDERS, CATS) for phrase in ("cat", "person")
    ]
    assert [each["file"] for each in result["failed"]] == ["broken.jpg"] and "no image" in result["failed"][0]["error"]
    with zipfile.ZipFile(path) as box:
        assert box.testzip() is None
        rows = list(csv.DictReader(io.StringIO(box.read("results.csv").decode("utf-8-sig"))))
        data = json.loads(box.read("coco.json"))
        masks = [name for name in box.namelist() if name.startswith("masks/")]
        assert sorted(masks) == sorted(row["mask"] for row in rows if row["mask"])
        drawn = Image.open(io.BytesIO(box.read("masks/two_cats__cat.png")))
    assert [row["error"] != "" for row in rows] == [False, False, True, False, False]
    cat = next(each for each in result["results"] if each["query"] == "cat" and each["present"])
    assert (coco.decode(cat["coco_rle"]).astype(bool) == np.asarray(drawn).astype(bool)).all()
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert len(COCO(tmp_path / "coco.json").anns) == sum(each["present"] for each in result["results"])


def test_mcp_tools_say_what_they_do(address: str):
    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def tools() -> dict:
        async with streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return {tool.name: tool for tool in (await session.list_tools()).tools}

    found = anyio.run(tools)
    assert {f"/{name}" for name in found} == ENDPOINTS.keys()
    for name, parameters in ENDPOINTS.items():
        tool = found[name[1:]]
        assert len(tool.description) > 60
        assert all(tool.inputSchema["properties"][each].get("description") for each in parameters)


def test_an_agent_segments_a_photo(address: str):
    """Gradio answers who asks for progress with text, pictures and JSON, one by one; others with all in one text."""
    import base64

    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    photo = f"data:image/jpeg;base64,{base64.b64encode(CATS.read_bytes()).decode()}"
    heard: list[str | None] = []

    async def hear(step: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    async def ask(progress) -> list:
        async with streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                asked = {"image": photo, "phrase": "cat"}
                return (await session.call_tool("segment", asked, progress_callback=progress)).content

    parts = anyio.run(ask, hear)
    text, (grid, mask) = parts[0].text, (each for each in parts if each.type == "image")
    assert codec.decode(text, (16, 16)).labels == ("others", "cat")
    for picture in (grid, mask):
        assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == Image.open(CATS).size
    assert "'finished': True" in parts[-1].text and heard
    (whole,) = anyio.run(ask, None)
    assert repr(text) in whole.text and "'finished': True" in whole.text


def _snippets(language: str, word: str) -> list[str]:
    """The code blocks of a language, in the README and the app's own, that hold a word."""
    text = "".join((ROOT / file).read_text("utf-8") for file in ("README.md", "t4s/app/README.md"))
    found = re.findall(rf"```{language}\n(.*?)```", text, re.S)
    found = [code for code in found if word in code]
    assert found, f"the README shows no {language} with {word}"
    return found


@pytest.mark.parametrize("word", ["gradio_client", "mcp.client"])
def test_the_readmes_snippets_run_as_they_stand(address: str, word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for code in _snippets("python", word):
        exec(code.replace("http://127.0.0.1:7860", address.rstrip("/")), {})


def test_the_readmes_address_for_agents_is_the_apps(address: str):
    (config,) = _snippets("json", "mcpServers")
    (server,) = json.loads(config)["mcpServers"].values()
    assert server["url"].replace("http://127.0.0.1:7860/", address) == f"{address}gradio_api/mcp/"


def test_the_readmes_upload_makes_a_space_with_its_weights(tmp_path: Path):
    """Run as it stands, but for YOU, in a copy of the repository with what lies about in a used one."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()]
    for name in names:
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "work" / name)
    for name in (".venv/bin/python", "runs/a/model.safetensors", "t4s/__pycache__/a.pyc", ".git/config", ".gradio/x"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text("no")
    (snippet,) = _snippets("sh", "hf upload")
    with HubServer(tmp_path) as hub:
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-ec", snippet.replace("YOU", "tester")], cwd=tmp_path / "work",
                              env=hub.environment() | paths, capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = hub.repos["tester/text4seg"].commits[-1].files
    assert set(files) == {name for name in names if not name.startswith("tests/")}
    weights = "assets/t4s-tiny/model.safetensors"
    assert files[weights] == (ROOT / weights).read_bytes()
    assert hashlib.sha256(files[weights]).hexdigest() in hub.uploads  # through LFS
    assert files["README.md"].startswith(b"---\n") and b"sdk: gradio" in files["README.md"]


def test_the_queue_is_as_zero_gpu_wants_it(segmenter: stand_in.StandIn):
    """One model call at a time, and no coroutines; nothing is told to Gradio's makers."""
    blocks = app.build(segmenter)
    asking = [fn for fn in blocks.fns.values() if fn.api_name in ("segment", "segment_classes", "batch")]
    assert len(asking) == 3 and {(fn.concurrency_id, fn.concurrency_limit) for fn in asking} == {("model", 1)}
    functions = [fn.fn for fn in blocks.fns.values()]
    assert not [fn for fn in functions if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)]
    assert not blocks.analytics_enabled


# --- hostile input ------------------------------------------------------------------------------------


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be huge: what a decompression bomb is before anyone decodes it."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def _hostile(folder: Path) -> dict[str, tuple[Path, tuple[int, int] | None]]:
    """name: (file, the size (w, h) of the answer's mask, or None where the file is refused)"""
    photo = Image.open(CATS)
    made: dict[str, tuple[Path, tuple[int, int] | None]] = {}

    def add(name: str, size: tuple[int, int] | None) -> Path:
        made[name] = folder / name, size
        return folder / name

    add("text.jpg", None).write_text("this is no picture")
    add("empty.png", None).write_bytes(b"")
    add("truncated.jpg", None).write_bytes(CATS.read_bytes()[:9000])
    add("bomb.png", None).write_bytes(_png_header(60_000, 60_000))
    Image.new("1", (8000, 6400)).save(add("51_megapixels.png", None))
    add("script.svg", None).write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    photo.convert("CMYK").save(add("cmyk.jpg", photo.size))
    Image.fromarray(np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)).save(add("16_bit.png", (64, 48)))
    frames = [photo.resize((64, 52)).convert("P"), photo.resize((64, 52)).rotate(90).convert("P")]
    frames[0].save(add("animated.gif", (64, 52)), save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(add("1x1.png", (1, 1)))
    Image.new("RGB", (10_000, 3)).save(add("10000x3.png", (10_000, 3)))
    turned = photo.getexif()
    turned[274] = 6
    photo.save(add("rotated.jpg", photo.size[::-1]), exif=turned)
    return made


def test_every_kind_of_file_is_handled_or_refused_in_a_sentence(client: Client, tmp_path: Path):
    for name, (path, size) in _hostile(tmp_path).items():
        if size is None:
            with pytest.raises(AppError) as told:
                client.predict(handle_file(path), "cat", api_name="/segment")
            message = str(told.value)
            assert len(message) > 30 and message[-1] == "." and "Traceback" not in message, (name, message)
        else:
            mask = client.predict(handle_file(path), "cat", api_name="/segment")[2]
            assert Image.open(mask).size == size, name
    assert client.predict(handle_file(CATS), "cat", api_name="/segment")[3]["present"]  # the app lives


@pytest.mark.parametrize(
    ("phrase", "says"),
    [("", "1 to 200"), ("   ", "1 to 200"), ("x" * 201, "1 to 200"), ("others", "reserved"), ("|*<>", "name")],
)
def test_phrases_that_cannot_be_asked(client: Client, phrase: str, says: str):
    with pytest.raises(AppError, match=says):
        client.predict(handle_file(CATS), phrase, api_name="/segment")


def test_fields_are_checked_before_anything_runs():
    """One verdict a field, so that the message stands beside the field that it is about."""

    def verdicts(checked: list[dict]) -> list[bool]:
        return [each["is_valid"] for each in checked]

    many = ", ".join(map(str, range(65)))
    for names, good in (("cat, dog", True), ("cat\ncat,,", True), (" , ", False), (many, False), ("x" * 201, False)):
        assert verdicts(app._check_names("photo", names, "", "", "")) == [True, good, True, True, True], names
    assert verdicts(app._check_phrase(None, " ", "")) == [False, False, True]
    assert "this has 201" in app._check_phrase("photo", "x" * 201)[1]["message"]


def test_a_list_of_too_many_names_and_an_empty_batch(client: Client):
    with pytest.raises(AppError, match="at most 64"):
        client.predict(handle_file(CATS), ", ".join(f"thing {i}" for i in range(65)), api_name="/segment_classes")
    with pytest.raises(AppError, match="at least one photo"):
        client.predict([], "cat", api_name="/batch")
    with pytest.raises(AppError, match="no photo"):
        client.predict(None, "cat", api_name="/segment")


def test_a_phrase_with_html_stays_text(client: Client):
    phrase = "<img src=x onerror=alert(1)>"
    text = client.predict(handle_file(CATS), phrase, api_name="/segment")[0]
    assert "<" not in text  # a label holds no angle brackets
    with pytest.raises(AppError) as told:  # a toast renders HTML: what people typed is escaped in it
        client.predict(handle_file(CATS), "cat", "<img src=x onerror=alert(1)>", api_name="/segment")
    assert "<" not in str(told.value)


def test_a_hundred_kilobytes_of_nonsense(client: Client):
    nonsense = ("<b>others *3| \x00 *| cat *-1\n" * 4000)[:100_000]
    _, read = client.predict(nonsense, 64, 64, api_name="/decode_text")
    assert not read["valid"] and len(read["rows"]) == 64
    view, _ = views.read_text(nonsense, (64, 64), "rows")
    assert len(view["faults"]) <= views.SHOWN_FAULTS + 1
    with pytest.raises(AppError, match="at most 200,000"):
        client.predict("x" * 200_001, 16, 16, api_name="/decode_text")
    with pytest.raises(AppError, match="1 to 64"):
        client.predict("others *1\n", 0, 16, api_name="/decode_text")


# --- what the model is asked --------------------------------------------------------------------------


def test_a_photo_is_encoded_once_and_a_refiner_asks_nothing():
    segmenter = stand_in.StandIn()
    model = app.Model(service.InferenceService(segmenter))
    *_, first = model.write(str(CATS), "cat", "smooth", "fast")
    assert segmenter.encoded == segmenter.asked == 1
    list(model.write(str(CATS), "toilet", "smooth", "fast"))
    assert (segmenter.encoded, segmenter.asked) == (1, 2)  # the second phrase finds the photo encoded
    again = model.refine(str(CATS), first, "none")
    assert (segmenter.encoded, segmenter.asked) == (1, 2)
    expected = refine_grid("none", np.asarray(open_photo(CATS)), first.grid, first.confidence)["cat"]
    assert again.grid == first.grid and (again.mask == expected).all() and (again.mask != first.mask).any()
    ys, xs = np.nonzero(again.mask)
    assert again.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_encoded_photos_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "ENCODED_BYTES", 2_500_000)  # the stand-in says a million bytes a photo
    segmenter = stand_in.StandIn()
    encode = service.InferenceService(segmenter).encode
    for path in (CATS, RIDERS, CATS, EXAMPLES / "gull.jpg", CATS, RIDERS):
        encode(str(path))
    assert segmenter.encoded == 4  # the riders went when the gull came: they had not been asked for the longest


def test_an_example_asks_the_model_once_and_grows_again_for_the_next_visitor():
    segmenter = stand_in.StandIn()
    talk = app.TabController(app.Model(service.InferenceService(segmenter)), str)
    ask = (0, str(CATS), "cat", "smooth", "", "fast", "")
    first, again = list(talk.ask_example(*ask)), list(talk.ask_example(*ask))
    assert segmenter.asked == 1
    growing = [view["written"] for view, _ in again[:-1]]
    assert len(growing) > 10 and growing == sorted(growing) and all(view["running"] for view, _ in again[:-1])
    assert again[-1][0] == first[-1][0]  # the same page in the end
    *_, (view, (path, answer)) = talk.ask_example(0, str(CATS), "cat", "none", "", "fast", "")
    assert segmenter.asked == 1 and "refine (none)" in dict(view["facts"]) and path == str(CATS)
    assert (answer.mask != first[-1][1][1].mask).any()
    list(talk.ask_example(0, str(CATS), "dog", "smooth", "", "fast", ""))
    assert segmenter.asked == 2  # another question


def test_an_answer_is_refined_on_its_own_photo_alone():
    """With a new photo in the field and the old answer still kept, a changed refiner drew the old grid over it."""
    import gradio as gr

    segmenter = stand_in.StandIn()
    talk = app.TabController(app.Model(service.InferenceService(segmenter)), str)
    *_, (_, answered) = talk.ask(str(CATS), "cat", "smooth", "", "fast", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == talk.refine(None, answered, "none", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == talk.refine(str(CATS), None, "none", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == (gr.skip(), gr.skip())
    view, (path, answer) = talk.refine(str(CATS), answered, "none", "")
    assert path == str(CATS) and (answer.mask != answered[1].mask).any() and dict(view["facts"])["refine (none)"]
    assert segmenter.asked == 1


def test_a_stopped_example_is_not_kept(tmp_path: Path):
    segmenter = stand_in.StandIn()
    talk = app.TabController(app.Model(service.InferenceService(segmenter)), str)
    (tmp_path / "stop").touch()
    *_, (view, _) = talk.ask_example(0, str(CATS), "cat", "smooth", "", "fast", str(tmp_path / "stop"))
    assert view["kind"] == "stopped"
    *_, (view, _) = talk.ask_example(0, str(CATS), "cat", "smooth", "", "fast", "")
    assert view["kind"] == "found" and segmenter.asked == 2


def _zero_gpu(used: list[str]):
    """What stands for `spaces.GPU`: each call is a fork; arguments and results are pickled, as ZeroGPU does it."""

    def decorate(duration):
        def wrap(function):
            used.append(f"decorated {function.__name__}")

            @functools.wraps(function)
            def call(*arguments):
                seconds = duration(*arguments) if callable(duration) else duration
                assert 0 < seconds <= 120
                used.append(function.__name__)
                yield from _forked(function, pickle.dumps(arguments))

            if inspect.isgeneratorfunction(function):
                return call
            return lambda *arguments: next(call(*arguments))

        return wrap

    return decorate


def _forked(function, arguments: bytes) -> list:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        try:
            made = function(*pickle.loads(arguments))
            results = list(made) if inspect.isgenerator(made) else [made]
        except app.gr.Error as error:  # of all errors ZeroGPU brings these back alone
            results = error
        there.send_bytes(pickle.dumps(results))

    process = context.Process(target=run)
    process.start()
    assert here.poll(60), "the forked process gave no answer"
    results = pickle.loads(here.recv_bytes())
    process.join(10)
    if isinstance(results, app.gr.Error):
        raise results
    return results


def test_gpu_functions_work_in_a_process_of_their_own(tiny_sam: str, monkeypatch: pytest.MonkeyPatch):
    """As on ZeroGPU, where the app's own SAM is loaded before the fork and inherited."""
    used: list[str] = []
    monkeypatch.setattr(app.spaces, "GPU", _zero_gpu(used))
    segmenter = stand_in.StandIn()
    model = app.Model(service.InferenceService(segmenter, f"sam:{tiny_sam}"))
    assert sam.load.cache_info().currsize == 1
    *growing, answer = model.write(str(CATS), "cat", model.refiner, "fast")
    assert len(growing) > 5 and isinstance(answer, Prediction) and answer.mask.any()
    assert segmenter.encoded == 0  # here, where the next fork would find it: each call encodes for itself
    with pytest.raises(app.gr.Error, match="reserved"):
        list(model.write(str(CATS), "others", "smooth", "fast"))
    with pytest.raises(app.gr.Error, match="cannot be found"):
        model.refine(str(CATS), answer, "sam:nobody/nothing")
    answers, problem = model.write_all(str(CATS), ["cat", "toilet"], "smooth")
    assert [each.query for each in answers] == ["cat", "toilet"] and problem == ""
    again = model.refine(str(CATS), answers[0], model.refiner)
    assert (again.mask == answer.mask).all() and (again.mask != answers[0].mask).any()
    decorated = [name.removeprefix("decorated ") for name in used if name.startswith("decorated ")]
    assert sorted(decorated) == sorted({name for name in used if not name.startswith("decorated ")})
    assert model.refine(str(CATS), answer, "none").mask.any() and used.count("refine") == 2  # no GPU for the others


# --- SAM ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a SAM with random weights, built on the spot."""
    import torch
    from transformers import SamConfig, SamModel

    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
              "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32,
              "num_pos_feats": 8}  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4, "patch_size": 8,
               "image_embedding_size": 8}  # fmt: skip
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "iou_head_hidden_dim": 16}  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    model.save_pretrained(folder)
    return str(folder)


def test_sam_looks_once_at_each_photo_that_stays_encoded(tiny_sam: str, monkeypatch: pytest.MonkeyPatch):
    segmenter = stand_in.StandIn()
    own = service.InferenceService(segmenter, f"sam:{tiny_sam}")
    model, _ = sam.load(tiny_sam)
    looks, look = [], model.get_image_embeddings
    monkeypatch.setattr(model, "get_image_embeddings", lambda pixels: looks.append(1) or look(pixels))
    sam._kept.clear()
    for path, phrase in ((CATS, "cat"), (RIDERS, "horse"), (CATS, "toilet"), (RIDERS, "person")):
        *_, answer = own.write(str(path), phrase, own.refiner, "fast")
        own.refine(str(path), answer, own.refiner)
    assert len(looks) == 2 and segmenter.encoded == 2


def test_visitors_name_a_sam_by_its_hub_id_and_are_told_what_is_wrong(client: Client, tiny_sam: str):
    for refiner, says in (
        (f"sam:{tiny_sam}", "no Hub id"),  # a folder of the server is for its owner to name
        ("sam:assets/examples", "no Hub id"),
        ("sam:../..", "no Hub id"),
        ("sam", "'facebook/sam-vit-base' cannot be found"),  # nothing is fetched in these tests
        ("sam:nobody/nothing", "'nobody/nothing' cannot be found"),
    ):
        with pytest.raises(AppError, match=says):
            client.predict(handle_file(CATS), "cat", refiner, api_name="/segment")
    assert client.predict(handle_file(CATS), "cat", "none", api_name="/segment")[3]["present"]


def test_a_wrong_refiner_of_the_owner_stops_the_start():
    with pytest.raises(QueryError, match="no refiner 'egde'"):
        service.InferenceService(stand_in.StandIn(), "egde")
    with pytest.raises(CheckpointError, match="cannot be found"):
        service.InferenceService(stand_in.StandIn(), "sam:nobody/nothing")


def test_a_wrong_space_variable_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("T4S_CHECKPOINT", str(tmp_path))
    with pytest.raises(SystemExit, match="has no t4s.json.*give a checkpoint"):
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")


def test_sam_is_among_the_refiners_and_the_default_comes_first():
    assert service.refiners("edge")[0] == "edge" and "sam" in service.refiners("edge")
    assert service.refiners("sam:me/mine")[0] == "sam" and len(set(service.refiners("sam:me/mine"))) == 5 + bool(
        find_spec("pydensecrf")
    )


def test_only_lists_that_the_checkpoint_can_draw_are_offered():
    assert examples.presets({}) == examples.PRESETS  # nothing is known
    known = {"cat": 0.7, "dog": 0.6, "person": 0.3, "car": 0.1, "road": 0.0}
    assert examples.presets({"names": known}) == {"animals": "cat, dog, person"}
    assert examples.presets({"names": {}}) == {}


def test_the_about_page_says_what_this_checkpoint_draws():
    text = (ROOT / "assets" / "app" / "about.md").read_text("utf-8")
    known = {"cat": 0.71, "dog": 0.6, "<b>sofa</b>": 0.3} | {f"thing {i}": 0.1 for i in range(30)}
    told = examples.about(text, (24, 32), {"names": known})
    assert "24×32 cells" in told and "on 33 names" in told and "$" not in told
    assert "- well (IoU 0.6 and more): cat, dog\n- roughly (0.25 and more): &lt;b&gt;sofa&lt;/b&gt;\n" in told
    assert "thing 23 and 6 more" in told and "thing 24" not in told
    assert "holds no figures" in examples.about(text, (16, 16), {})


# --- many at once -------------------------------------------------------------------------------------


Expected = dict[tuple[Path, str], Prediction]


def _ask_for(seconds: float, clients: int, address: str, expected: Expected) -> list[str]:
    """Clients that each ask their own way through `expected`; → what was mixed up or failed."""
    wrong: list[str] = []
    until = time.monotonic() + seconds

    def one(number: int) -> None:
        try:
            own, questions = Client(address, verbose=False), list(expected)
            for turn in itertools.count(number):
                photo, phrase = questions[turn % len(questions)]
                text, _, mask, result = own.predict(handle_file(photo), phrase, api_name="/segment")
                right = expected[photo, phrase]
                if (result["query"], text) != (phrase, right.text) or ((_mask(mask) > 0) != right.mask).any():
                    wrong.append(f"{photo.name}, {phrase}: {result['query']}, {text!r}")
                if time.monotonic() > until:
                    return
        except AppError as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 240)
        if thread.is_alive():
            wrong.append("a client hangs")
    return wrong


def _expected(segmenter: stand_in.StandIn | Segmenter) -> Expected:
    """Every example with two phrases, in an order that takes neighbours from different photos."""
    questions = [(EXAMPLES / name, own) for name, own in examples.EXAMPLES]
    questions += [(EXAMPLES / name, "dog" if own == "person" else "person") for name, own in examples.EXAMPLES]
    return {(photo, phrase): segmenter(photo, phrase) for photo, phrase in questions}


def test_clients_at_once_get_their_own_answers(address: str, segmenter: stand_in.StandIn):
    expected = _expected(segmenter)
    assert len({answer.text for answer in expected.values()}) > 10  # a mixed-up one would show
    assert _ask_for(0, 4, address, expected) == []


def _resident() -> int:
    """kB of memory that the process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.long
def test_sixteen_clients_of_a_stand_in_for_a_minute(address: str, segmenter: stand_in.StandIn):
    """The app's own memory, whatever the allocator keeps: no model beside it."""
    expected = _expected(segmenter)
    assert _ask_for(5, 16, address, expected) == []
    before = _resident()
    assert _ask_for(60, 16, address, expected) == []
    assert _resident() - before < 200_000  # kB; the encoded photos and Gradio's files are bounded


@pytest.mark.long
def test_sixteen_clients_for_a_minute():
    """With the embedded checkpoint: no error, every answer the one that the model gives when nobody else asks."""

    def resident() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is no leak
        return _resident()

    segmenter = Segmenter.from_pretrained(device="cpu")
    expected = _expected(segmenter)
    blocks = app.build(segmenter).queue(max_size=64)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    try:
        assert _ask_for(20, 16, url, expected) == []  # what is kept of photos and answers fills up
        before = resident()
        assert _ask_for(60, 16, url, expected) == []
        assert resident() - before < 100_000  # kB; the encoded photos and Gradio's files are bounded
    finally:
        blocks.close()


# --- what the page is told ----------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(["others *3", "dog *2", " *4", "dog", "| ", "|", "\n ", "\n", "*", "3", "😀 *1", " "])
)


@given(PIECES.map("".join), st.sampled_from(codec.LAYOUTS))
def test_runs_are_the_text_to_the_letter_and_never_leave_the_grid(text: str, layout: str):
    found = views.runs(text, ("others", "dog", "😀"), (4, 5), layout)
    assert "".join(run["text"] for run in found) == text
    for run in found:
        assert run["label"] is None or (run["count"] == 0 or 0 <= run["at"] and run["at"] + run["count"] <= 20)


@pytest.mark.parametrize("layout", codec.LAYOUTS)
def test_runs_cover_every_cell_with_its_label(layout: str):
    ids = np.random.default_rng(3).integers(0, 3, (5, 7))
    grid = codec.DescriptorGrid(ids, ("others", "dog", "red cat"))
    painted = np.full(35, -1)
    for run in views.runs(codec.encode(grid, layout), grid.labels, grid.shape, layout):
        if run["label"] is not None:
            assert (painted[run["at"] : run["at"] + run["count"]] == -1).all()
            painted[run["at"] : run["at"] + run["count"]] = run["label"]
    assert (painted == ids.ravel()).all()


def test_the_view_is_json_and_says_absence_in_words(segmenter: stand_in.StandIn):
    absent = segmenter(CATS, "elephant")
    view = views.finished_view(absent, "data:,", "rows", "smooth")
    assert json.loads(json.dumps(view)) == json.loads(json.dumps(view, allow_nan=False))
    assert view["kind"] == "absent" and "“elephant” is not in this photo" in view["message"]
    assert views.verdict(segmenter.classes(CATS, ["cow", "sheep"]))[1].startswith(
        "None of the 2 names is in this photo"
    )
    growing = next(segmenter.stream(CATS, "cat"))
    view = views.growing_view(growing, "data:,", "rows")
    assert view["running"] and view["written"] == 16 and view["mask"] is None and not view["faults"]


def test_captions_are_escaped(segmenter: stand_in.StandIn):
    made = views.figures([(Image.new("RGB", (4, 4)), "<script>alert(1)</script>")])
    assert "<script>" not in made and "&lt;script&gt;" in made


def test_the_story_replays_the_text(segmenter: stand_in.StandIn):
    answer = segmenter(CATS, "cat")
    parts = explainer.drafts(answer.text, answer.grid.shape, answer.grid.labels)
    assert "".join(text for text, _ in parts) == answer.text
    assert sum(own for _, own in parts) < answer.text.count("*")  # fewer passes than runs
    assert len(explainer.pictures(open_photo(CATS), answer)) == 5


@pytest.mark.parametrize("kind", downloads.FILES)
def test_every_download_opens_in_its_tool(segmenter: stand_in.StandIn, tmp_path: Path, kind: str):
    photo = tmp_path / "riders.png"
    Image.open(RIDERS).reduce(6).save(photo)
    answer = segmenter.classes(photo, ["horse", "person"])
    assert len(answer.masks) == 2
    name, data = downloads.make(kind, answer, str(photo))
    (tmp_path / name).write_bytes(data)
    assert name.startswith("riders.")
    if kind == "mask":
        assert ((np.asarray(Image.open(tmp_path / name)) > 0) == answer.mask).all()
    elif kind == "cutout":
        cut = np.asarray(Image.open(tmp_path / name))
        assert ((cut[..., 3] > 0) == answer.mask).all()
        assert (cut[..., :3][answer.mask] == np.asarray(Image.open(photo))[answer.mask]).all()
    elif kind == "coco":
        dataset = COCO(tmp_path / name)
        for each in dataset.anns.values():
            label = dataset.cats[each["category_id"]]["name"]
            assert (dataset.annToMask(each).astype(bool) == answer.masks[label]).all()
    elif kind == "svg":
        assert len(ElementTree.fromstring(data).findall("{http://www.w3.org/2000/svg}path")) == 2
    elif kind == "text":
        assert codec.decode(data.decode()) == answer.grid
    elif kind == "grid":
        plain = json.loads(data)
        assert codec.DescriptorGrid(np.array(plain["rows"]), tuple(plain["labels"])) == answer.grid
        assert np.allclose(plain["confidence"], answer.confidence, atol=1e-4)
    elif kind == "geojson":
        for label, parts in strict_geojson(data.decode()).items():
            assert (filled([ring for part in parts for ring in part], answer.mask.shape) == answer.masks[label]).all()
    elif kind == "labelme":
        drawn = {label: np.zeros(answer.mask.shape, bool) for label in answer.masks}
        for shape in json.loads(data)["shapes"]:
            drawn[shape["label"]] ^= filled([shape["points"]], answer.mask.shape)
        assert all((drawn[label] == mask).all() for label, mask in answer.masks.items())
    else:
        raise AssertionError(f"nothing opens {kind}")


def test_names_in_a_parcel_are_plain_and_its_table_runs_no_formula(segmenter: stand_in.StandIn, tmp_path: Path):
    box = downloads.ResultsZip(tmp_path / "box.zip")
    answer = segmenter(CATS, "=cmd()")
    box.add("../../etc/passwd.jpg", [answer])
    box.add("passwd.jpg", [answer])
    box.fail("@x.jpg", "broken")
    with zipfile.ZipFile(box.close()) as written:
        names = [name for name in written.namelist() if name.startswith("masks/")]
        table = written.read("results.csv").decode("utf-8-sig")
    assert names == ["masks/passwd__cmd.png", "masks/passwd__cmd-2.png"]
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["phrase"] for row in rows[:2]] == ["'=cmd()"] * 2 and rows[2]["file"] == "'@x.jpg"


def test_saving_before_there_is_an_answer_says_what_to_do():
    import gradio as gr

    with pytest.raises(gr.Error, match="segment a photo first"):
        app._save("mask", None)
    with pytest.raises(QueryError, match="paste less"):
        views.read_text("x" * 200_001, (16, 16), "rows")


# --- the embedded checkpoint --------------------------------------------------------------------------


@pytest.mark.long
def test_two_cats_with_the_embedded_checkpoint(true_masks):
    blocks = app.build(Segmenter.from_pretrained(device="cpu")).queue()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    try:
        text, _, mask, result = Client(url, verbose=False).predict(handle_file(CATS), "cat", api_name="/segment")
    finally:
        blocks.close()
    codec.decode(text, (16, 16))
    found, true = _mask(mask) > 0, true_masks["two_cats.jpg"]["cat"]
    assert result["present"] and (found & true).sum() / (found | true).sum() >= 0.5
