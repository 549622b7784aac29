"""Checkpoints in the original LLaVA layout: converted, they compute what the original would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from t4s import Segmenter, codec
from t4s.errors import CheckpointError
from t4s.hub import importing
from t4s.models.original import convert, layout
from t4s.models.original.shards import ShardWriter, stored_shapes
from tests.support import original_llava as original

ROOT = Path(__file__).resolve().parents[2]


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def reference_logits(tensors: dict[str, torch.Tensor], pixels: torch.Tensor, before: list[int], after: list[int]):
    """CLIP's second last layer, the projector and Llama, from the original tensors: no Llava class involved."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    start = "model.vision_tower.vision_tower.vision_model."
    clip = CLIPVisionModel(CLIPVisionConfig(
        hidden_size=original.TOWER_WIDTH, intermediate_size=original.TOWER_INNER,
        num_hidden_layers=original.TOWER_LAYERS, num_attention_heads=1,
        patch_size=original.PATCH, image_size=original.SIDE,
    )).eval()  # fmt: skip
    own = {name.removeprefix("vision_model."): name for name in clip.state_dict()}
    clip.load_state_dict(
        {own[key]: tensors[start + key] for key in own if not key.endswith("position_ids")}, strict=False
    )
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=original.VOCABULARY, hidden_size=original.WIDTH, intermediate_size=original.INNER,
        num_hidden_layers=original.LAYERS, num_attention_heads=original.HEADS, rms_norm_eps=1e-5,
        num_key_value_heads=original.HEADS, max_position_embeddings=4096, tie_word_embeddings=False,
    )).eval()  # fmt: skip
    llama.load_state_dict({name: tensors[name] for name in llama.state_dict()})
    with torch.inference_mode():
        seen = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        hidden = F.gelu(F.linear(seen, tensors["model.mm_projector.0.weight"], tensors["model.mm_projector.0.bias"]))
        seen = F.linear(hidden, tensors["model.mm_projector.2.weight"], tensors["model.mm_projector.2.bias"])
        words = [llama.get_input_embeddings()(torch.tensor([ids])) for ids in (before, after)]
        return llama(inputs_embeds=torch.cat([words[0], seen, words[1]], 1)).logits[0]


def check_same(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The converted folder loads by transformers alone, and its logits are the original's."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=[photo()], text=["<s> a USER: <image> \nb ASSISTANT:"], return_tensors="pt")
    ids, image = inputs["input_ids"][0].tolist(), model.config.image_token_id
    first, count = ids.index(image), ids.count(image)
    assert count == (original.SIDE // original.PATCH) ** 2
    with torch.inference_mode():
        got = model(**inputs).logits[0]
    want = reference_logits(tensors, inputs["pixel_values"], ids[:first], ids[first + count :])
    torch.testing.assert_close(got[:, : original.VOCABULARY], want, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tower", "kind", "shards"),
    [(True, "safetensors", 2), (False, "safetensors", 1), (True, "bin", 1), (False, "bin", 3)],
)
def test_a_converted_checkpoint_computes_what_the_original_does(tmp_path, tower, kind, shards):
    tensors = original.write(tmp_path / "old", tower, kind, shards)
    clip = None if tower else tmp_path / "old-clip"
    out = convert.convert(tmp_path / "old", tmp_path / "new", (24, 24), tower=clip, progress=False)
    check_same(out, tensors)
    assert not list(tmp_path.glob("*.part")) and not list(out.glob("*.part"))


def test_an_adapter_is_merged_into_its_base(tmp_path):
    tensors = original.write_lora(tmp_path / "lora", tmp_path / "vicuna")
    with pytest.raises(CheckpointError, match="name the folder of its language model .*vicuna-7b-v1.5.* with --base"):
        convert.convert(tmp_path / "lora", tmp_path / "new", (16, 16))
    out = convert.convert(
        tmp_path / "lora",
        tmp_path / "new",
        (16, 16),
        base=tmp_path / "vicuna",
        tower=tmp_path / "lora-clip",
        progress=False,
    )
    check_same(out, tensors)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    folder = tmp_path_factory.mktemp("original")
    original.write(folder / "old")
    assert importing.main([str(folder / "old"), "-o", str(folder / "new"), "--grid", "24", "24"]) == 0
    return Segmenter.from_pretrained(folder / "new", device="cpu")


def test_a_training_example_is_spelled_as_the_original_code_spelled_it(segmenter):
    """Ids of Llama 2's vocabulary, by hand: the photo's neighbours, the question, the answer with its first cells."""
    vlm = segmenter.vlm
    suffix = vlm.suffix(vlm.question("dog"))
    # ▁ \n Please ▁segment ▁only ▁the ▁dog ▁in ▁the ▁image . ▁A SS IST ANT :
    assert suffix == [29871, 13, 12148, 10768, 871, 278, 11203, 297, 278, 1967, 29889, 319, 1799, 9047, 13566, 29901]
    opening, body, closing = vlm.answer_ids("others *24\n others *5| dog *19\n", query="dog")
    # ▁Sure , ▁here ▁is ▁the ▁segment ation ▁mask ▁for ▁' dog ': \n < seg >
    assert opening == [18585, 29892, 1244, 338, 278, 10768, 362, 11105, 363, 525, 26169, 2396, 13, 29966, 10199, 29958]
    # oth ers ▁* 2 4 \n ▁others ▁* 5 | ▁dog ▁* 1 9 \n
    assert body == [720, 414, 334, 29906, 29946, 13, 4045, 334, 29945, 29989, 11203, 334, 29896, 29929, 13]
    assert closing == [829, 10199, 29958, 2]  # </ seg > </s>
    _, prefix = vlm.preprocess(photo())
    assert prefix[:5] == [1, 319, 13563, 1546, 263] and prefix[-5] == 29871  # <s> ▁A ▁chat ▁between ▁a … ▁ <image>
    names = vlm.question(("cat", "sofa"))
    assert names == "Please segment the image based on the category: cat|sofa."


def test_fast_writes_what_constrained_writes(segmenter):
    encoded = segmenter.encode(photo())
    fast, slow = (segmenter(encoded, "dog", refine="none", decoding=mode) for mode in ("fast", "constrained"))
    assert fast.text == slow.text and codec.decode(fast.text, (24, 24)) == fast.grid
    assert fast.stats["forwards"] < slow.stats["forwards"]


def test_the_published_checkpoint_converts_by_shape():
    """LLaVA-1.5-7B with CLIP-L/14-336, from its config and the shapes of its tensors: nothing is left over."""
    width, inner, rows = 4096, 11008, 32000
    config = original.CONFIG | {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 32,
                                "num_attention_heads": 32, "num_key_value_heads": 32}  # fmt: skip
    shapes = {
        "model.embed_tokens.weight": (rows, width),
        "lm_head.weight": (rows, width),
        "model.norm.weight": (width,),
    }
    for layer in range(32):
        start = f"model.layers.{layer}"
        shapes |= {f"{start}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{start}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{start}.mlp.down_proj.weight": (width, inner), f"{start}.self_attn.rotary_emb.inv_freq": (64,)}
        shapes |= {f"{start}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    shapes |= {"model.mm_projector.0.weight": (width, 1024), "model.mm_projector.0.bias": (width,),
               "model.mm_projector.2.weight": (width, width), "model.mm_projector.2.bias": (width,)}  # fmt: skip
    start = "model.vision_tower.vision_tower.vision_model"
    shapes |= {f"{start}.embeddings.class_embedding": (1024,),
               f"{start}.embeddings.position_embedding.weight": (577, 1024),
               f"{start}.embeddings.patch_embedding.weight": (1024, 3, 14, 14)}  # fmt: skip
    norms = [f"{start}.{name}" for name in ("pre_layrnorm", "post_layernorm")]
    for layer in range(24):
        inside = f"{start}.encoder.layers.{layer}"
        norms += [f"{inside}.layer_norm1", f"{inside}.layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{inside}.self_attn.{name}.weight": (1024, 1024), f"{inside}.self_attn.{name}.bias": (1024,)}
        shapes |= {f"{inside}.mlp.fc1.weight": (4096, 1024), f"{inside}.mlp.fc1.bias": (4096,),
                   f"{inside}.mlp.fc2.weight": (1024, 4096), f"{inside}.mlp.fc2.bias": (1024,)}  # fmt: skip
    shapes |= {f"{name}.{part}": (1024,) for name in norms for part in ("weight", "bias")}
    found = {target: shape for name, shape in shapes.items() if (target := layout.target_name(name))}
    target = layout.target_config(config, found)
    padded = {name: (32064, width) if name in layout.EMBEDDINGS else shape for name, shape in found.items()}
    expected = layout.expected_shapes(target)
    layout.compare(padded, expected)
    assert sum(int(np.prod(shape)) for shape in expected.values()) == 7_063_427_072
    assert target.image_token_id == 32000 and target.text_config.pad_token_id == 32001


BAD: dict[str, tuple] = {
    "LLaVA-NeXT": ({"mm_patch_merge_type": "spatial_unpad"}, "is LLaVA-NeXT"),
    "a Mistral base": ({"model_type": "llava_mistral"}, "is a 'llava_mistral' model"),
    "another projector": ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'; only 'mlp2x_gelu'"),
    "the last layer": ({"mm_vision_select_layer": -1}, "mm_vision_select_layer -1"),
    "start and end tokens": ({"mm_use_im_start_end": True}, "mm_use_im_start_end True"),
    "more layers than weights": ({"num_hidden_layers": 3}, "9 missing"),
    "wider than the weights": ({"intermediate_size": 128}, "of another shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_another_architecture_is_refused_by_name(tmp_path, case):
    original.write(tmp_path / "old")
    changes, sentence = BAD[case]
    (tmp_path / "old" / "config.json").write_text(json.dumps(original.CONFIG | changes))
    with pytest.raises(CheckpointError, match=sentence):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert not (tmp_path / "new").exists()


def test_a_tower_of_another_machine_is_clip(tmp_path, monkeypatch):
    """`mm_vision_tower` is a path of the author's machine; only CLIP-L/14-336 can be meant by it."""
    original.write(tmp_path / "old", tower=False)
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: asked.append(name) or str(tmp_path / "old-clip")
    )
    convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert asked == ["openai/clip-vit-large-patch14-336"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(original.CONFIG | {"mm_vision_tower": "/data/siglip"}))
    with pytest.raises(CheckpointError, match="The vision tower is '/data/siglip'.*--tower"):
        convert.convert(tmp_path / "old", tmp_path / "other", (16, 16), progress=False)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_truncated_shard_and_an_index_that_lies_are_errors(tmp_path, kind):
    original.write(tmp_path / "old", kind=kind, shards=2)
    shard = sorted((tmp_path / "old").glob(f"*of-00002.{kind}"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{shard.name} cannot be read as weights"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks the shard {shard.name}"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    index = next((tmp_path / "old").glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"a": "../secret.bin"}}))
    with pytest.raises(CheckpointError, match="names the shard '../secret.bin'"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert not (tmp_path / "new").exists()


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    original.write(tmp_path / "old", kind="bin", shards=1)
    torch.save({"model.norm.weight": Harm()}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert not (tmp_path / "harm").exists()


def test_a_conversion_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    """What is whole stays; the unfinished folder never goes by the final name."""
    monkeypatch.setattr(convert, "SMALLEST_SHARD", 100_000)
    monkeypatch.setattr(convert, "SHARD_SHARE", 1000)
    original.write(tmp_path / "old")
    flush, count = ShardWriter.flush, []

    def short(self):
        if len(count) == 3:
            raise OSError(28, "No space left on device")
        count.append(1)
        flush(self)

    monkeypatch.setattr(ShardWriter, "flush", short)
    with pytest.raises(CheckpointError, match="No space left on device.*goes on where it stopped"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert not (tmp_path / "new").exists()
    part = tmp_path / "new.part"
    before = {file.name: file.stat().st_mtime_ns for file in part.glob("*.safetensors")}
    assert len(before) == 3
    monkeypatch.setattr(ShardWriter, "flush", flush)
    out = convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)
    assert all((out / name).stat().st_mtime_ns == when for name, when in before.items()) and not part.exists()
    clean = convert.convert(tmp_path / "old", tmp_path / "clean", (16, 16), progress=False)
    assert stored_shapes(sorted(out.glob("*.safetensors"))) == stored_shapes(sorted(clean.glob("*.safetensors")))


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    original.write(tmp_path / "old")
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="GB free; converting needs 0.0 GB"):
        convert.convert(tmp_path / "old", tmp_path / "new", (16, 16), progress=False)


def test_a_local_folder_says_how_to_convert_it(tmp_path, capsys):
    original.write(tmp_path / "old")
    with pytest.raises(CheckpointError, match="t4s import .*old -o DIR --grid ROWS COLUMNS"):
        Segmenter.from_pretrained(tmp_path / "old")
    assert importing.main([str(tmp_path / "old"), "-o", str(tmp_path / "new")]) == 2
    assert "give it with --grid ROWS COLUMNS" in capsys.readouterr().err
    assert importing.main(["acme/nothing", "-o", str(tmp_path / "new")]) == 2
    assert "neither a folder nor a known id" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells a process its own peak")
def test_memory_stays_near_one_shard(tmp_path):
    """A random checkpoint of 1 GB in ten shards: the process peaks below 600 MB."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import json, torch
from pathlib import Path
from tests.support import original_llava as original
original.WIDTH, original.INNER, original.LAYERS = 512, 5632, 24
original.CONFIG.update(hidden_size=512, intermediate_size=5632, num_hidden_layers=24)
original.write(Path({str(tmp_path / "old")!r}), shards=10)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    size = sum(file.stat().st_size for file in (tmp_path / "old").glob("*.safetensors"))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom t4s.models.original import convert\n"
        f"convert.convert(Path({str(tmp_path / 'old')!r}), Path({str(tmp_path / 'new')!r}), (24, 24))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"  # its own peak, in kB
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert size > 0.9e9 and int(done.stdout.split()[-1]) < 600_000
    assert "B/s" in done.stderr  # progress in bytes
