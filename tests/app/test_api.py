"""The endpoints as scripts and agents call them: through `gradio_client` and MCP, and what they refuse."""

from __future__ import annotations

import csv
import inspect
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import app
from t4s import Segmenter, codec
from t4s.app import views
from tests.support import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"


ENDPOINTS = {  # name: parameters; a script that uses them must not break
    "/segment": ["image", "phrase", "refiner", "decoding", "by_part"],
    "/segment_classes": ["image", "names", "refiner", "decoding", "by_part"],
    "/encode_mask": ["mask", "label", "height", "width", "layout"],
    "/decode_text": ["text", "height", "width", "layout"],
    "/batch": ["images", "phrases", "refiner", "by_part"],
}


EVERYTHING = {"text", "labels", "rows", "box", "score", "present", "faults", "stats", "coco_rle"}


def _mask(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_endpoints_keep_their_names_and_parameters(client: Client):
    listed = client.view_api(return_format="dict")["named_endpoints"]
    parameters = {name: [each["parameter_name"] for each in entry["parameters"]] for name, entry in listed.items()}
    assert parameters == ENDPOINTS


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


def test_parts_have_their_own_masks_on_request(client: Client):
    """In the JSON of all three endpoints and in the batch's COCO file."""
    _, _, _, plain = client.predict(handle_file(CATS), "cat", api_name="/segment")
    _, _, mask, result = client.predict(handle_file(CATS), "cat", by_part=True, api_name="/segment")
    path, batch = client.predict([handle_file(CATS)], "cat", by_part=True, api_name="/batch")
    assert len(result["parts"]) >= 2 and not any("coco_rle" in part for part in plain["parts"])
    assert batch["results"][0]["parts"] == result["parts"]
    pieces = [coco.decode(part["coco_rle"]).astype(bool) for part in result["parts"]]
    assert (sum(pieces) == (_mask(mask) > 0)).all()
    for piece, part in zip(pieces, result["parts"], strict=True):
        rows, columns = np.nonzero(piece)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == part["box"]
        assert piece.sum() == part["area"] and 0 < part["score"] <= 1
    with zipfile.ZipFile(path) as box:
        annotations = json.loads(box.read("coco.json"))["annotations"]
    assert [each["segmentation"] for each in annotations] == [part["coco_rle"] for part in result["parts"]]
    *_, result = client.predict(handle_file(RIDERS), "horse, person", by_part=True, api_name="/segment_classes")
    for label in ("horse", "person"):
        pieces = [coco.decode(part["coco_rle"]) for part in result["parts"] if part["label"] == label]
        assert pieces and (sum(pieces) == coco.decode(result["masks"][label])).all()


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


def test_the_servers_own_network_is_not_to_be_fetched_from(client: Client):
    with pytest.raises(AppError):
        client.predict(handle_file("http://127.0.0.1:9/photo.jpg"), "cat", api_name="/segment")
    with pytest.raises(AppError):
        client.predict({"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}, api_name="/encode_mask")


def test_faults_are_reported_and_repaired(client: Client):
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
    assert [each["file"] for each in result["failed"]] == ["broken.jpg"] and "not a readable image" in result["failed"][
        0
    ]["error"]
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
        assert "$ref" not in json.dumps(tool.inputSchema)  # clients refuse a schema that points nowhere


def test_an_agent_segments_a_photo(address: str):
    """With text, two pictures and JSON, whether the agent asks for progress or not; the batch, too, takes addresses."""
    import base64

    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    photo = f"data:image/jpeg;base64,{base64.b64encode(CATS.read_bytes()).decode()}"
    heard: list[str | None] = []

    async def hear(step: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    async def ask(tool: str, asked: dict, progress) -> list:
        async with streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return (await session.call_tool(tool, asked, progress_callback=progress)).content

    for progress in (hear, None):
        parts = anyio.run(ask, "segment", {"image": photo, "phrase": "cat"}, progress)
        text, (grid, mask) = parts[0].text, (each for each in parts if each.type == "image")
        assert codec.decode(text, (16, 16)).labels == ("others", "cat")
        for picture in (grid, mask):
            assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == Image.open(CATS).size
        assert json.loads(parts[-1].text)["finished"] is True
    assert heard
    *_, answer = anyio.run(ask, "batch", {"images": [photo], "phrases": ["cat", "person"]}, None)
    assert [each["query"] for each in json.loads(answer.text)["results"]] == ["cat", "person"]


def test_the_queue_is_as_zero_gpu_wants_it(segmenter: stand_in.StandIn):
    """One model call at a time, and no coroutines; nothing is sent to Gradio's makers."""
    blocks = app.build(segmenter)
    asking = [fn for fn in blocks.fns.values() if fn.api_name in ("segment", "segment_classes", "batch")]
    assert len(asking) == 3 and {(fn.concurrency_id, fn.concurrency_limit) for fn in asking} == {("model", 1)}
    functions = [fn.fn for fn in blocks.fns.values()]
    assert not [fn for fn in functions if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)]
    assert not blocks.analytics_enabled


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be huge: what a decompression bomb is before anyone decodes it."""

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
            with pytest.raises(AppError) as caught:
                client.predict(handle_file(path), "cat", api_name="/segment")
            message = str(caught.value)
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


def test_names_and_phrases_may_be_lists(client: Client):
    *_, result = client.predict(handle_file(RIDERS), ["horse", "person"], api_name="/segment_classes")
    assert result["query"] == ["horse", "person"]
    _, result = client.predict([handle_file(CATS)], ["cat", "person"], api_name="/batch")
    assert [each["query"] for each in result["results"]] == ["cat", "person"]


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
    with pytest.raises(AppError) as caught:  # a toast renders HTML: what people typed is escaped in it
        client.predict(handle_file(CATS), "cat", "<img src=x onerror=alert(1)>", api_name="/segment")
    assert "<" not in str(caught.value)


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


def test_visitors_name_a_sam_by_its_hub_id_and_are_told_what_is_wrong(client: Client, tiny_sam: str):
    for refiner, says in (
        (f"sam:{tiny_sam}", "not a Hub id"),  # a folder of the server is for its owner to name
        ("sam:assets/examples", "not a Hub id"),
        ("sam:../..", "not a Hub id"),
        ("sam", "'facebook/sam-vit-base' is not in the cache"),  # nothing is fetched in these tests
        ("sam:nobody/nothing", "'nobody/nothing' is not in the cache"),
    ):
        with pytest.raises(AppError, match=says):
            client.predict(handle_file(CATS), "cat", refiner, api_name="/segment")
    assert client.predict(handle_file(CATS), "cat", "none", api_name="/segment")[3]["present"]


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
