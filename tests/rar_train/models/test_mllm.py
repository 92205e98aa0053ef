"""Loading models, and prompts and answers as tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_prep.core.errors import UserError
from data_prep.core.paths import NANO_MLLM
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from data_prep.settings import RankerArgs
from rar_train.families.table import FAMILIES
from rar_train.models.inputs import pad_rows
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm

NAMES = [
    "azure, a bend or, two mullets argent",
    "gules, a pale argent, a heart or",
    "Boeing 707-320, 'Intercontinental'",
]


TURNS = [(NAMING, NAMES[0]), (letters_prompt(NAMES), "B"), (list_prompt(NAMES), list_answer(NAMES[::-1]))]


def test_labels_decode_to_the_answer_and_the_turns_end_and_are_nowhere_else(either: Mllm, pictures):
    prompts, answers = zip(*TURNS, strict=True)
    batch = either.labelled(pictures[:3], prompts, answers)
    tokenizer = either.processor.tokenizer
    for ids, labels, mask, answer in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], answers, strict=True
    ):
        labelled = labels != -100
        assert tokenizer.decode(labels[labelled]).strip() == answer + tokenizer.eos_token
        assert torch.equal(labels[labelled], ids[labelled])
        positions = labelled.nonzero().flatten()
        assert positions.tolist() == list(range(int(positions[0]), int(mask.sum())))


def test_prompts_are_padded_on_the_left_and_end_where_the_answer_begins(either: Mllm, pictures):
    prompts, answers = zip(*TURNS, strict=True)
    batch = either.inputs(pictures[:3], prompts)
    full = either.labelled(pictures[:3], prompts, answers)
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][:, 0].all()
    for ids, mask, conversation, labels in zip(
        batch["input_ids"], batch["attention_mask"], full["input_ids"], full["labels"], strict=True
    ):
        assert ids[mask.bool()].tolist() == conversation[: int((labels != -100).nonzero()[0])].tolist()


def test_a_tokenizer_that_adds_bos_adds_it_once(llava: Mllm, nano: Mllm, pictures):
    for mllm, expected in ((llava, 1), (nano, 0)):
        ids = mllm.inputs(pictures[:1], [NAMING])["input_ids"]
        assert (ids == mllm.processor.tokenizer.bos_token_id).sum() == expected


def test_a_template_that_writes_bos_itself_gets_no_second_one(llava_folder: Path, pictures):
    mllm = load_mllm(RankerArgs(model=str(llava_folder)))
    mllm.processor.chat_template = "<s>" + mllm.processor.chat_template
    batch = mllm.labelled(pictures[:1], [NAMING], ["gules"])
    assert (batch["input_ids"] == mllm.processor.tokenizer.bos_token_id).sum() == 1


def test_every_image_token_is_kept_for_each_image(either: Mllm, pictures):
    ids = either.inputs(pictures[:2], [NAMING, letters_prompt(NAMES)])["input_ids"]
    image = either.model.config.image_token_id
    assert (ids == image).sum(1).tolist() == [either.model.config.image_seq_length] * 2


def test_each_of_26_letters_is_a_distinct_single_token(either: Mllm):
    ids = either.letter_ids(26)
    assert len(set(ids)) == 26
    listed = letters_prompt([f"class {i}" for i in range(26)])
    assert ids == [either.answer_ids(listed, letter)[0] for letter in LETTERS]  # whatever is listed before
    assert [either.processor.tokenizer.decode([i]).strip() for i in ids] == list(LETTERS)


def test_a_tokenizer_whose_letters_share_a_token_is_refused(llava: Mllm):
    processor = load_mllm(RankerArgs(model="nano-mllm")).processor
    processor.tokenizer.backend_tokenizer.model = type(processor.tokenizer.backend_tokenizer.model)(
        vocab=processor.tokenizer.get_vocab(), merges=[]
    )
    with pytest.raises(UserError, match="each letter a token of its own"):
        Mllm(llava.model, processor, llava.family, "spelling-model").letter_ids(3)


def test_a_template_whose_prompt_is_not_a_prefix_is_refused(pictures):
    mllm = load_mllm(RankerArgs())
    mllm.processor.chat_template = mllm.processor.chat_template.replace(
        " ASSISTANT:{% endif %}", " ASSISTANT: {% endif %}"
    )
    with pytest.raises(UserError, match=r"not a prefix .* not supported"):
        mllm.wrap(mllm.model).labelled(pictures[:1], [NAMING], ["gules"])


def test_a_hub_name_without_network_names_the_model_and_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"ranker.model=llava-hf/llava-1.5-7b-hf.*ranker.model=FOLDER of a local copy"):
        load_mllm(RankerArgs(model="llava-hf/llava-1.5-7b-hf"))


def test_a_folder_that_lacks_a_weight_is_refused_rather_than_filled_at_random(llava_folder: Path, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in sorted(weights) if "layers.0.self_attn.q_proj" in name)
    del weights[removed]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"broken: its files lack 1 weights, such as .*layers\.0\.self_attn\.q_proj"):
        load_mllm(RankerArgs(model=str(folder)))


def test_an_empty_folder_and_damaged_weights_are_user_errors_that_name_the_folder(llava_folder: Path, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = shutil.copytree(llava_folder, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    for name in ("empty", "damaged"):
        with pytest.raises(UserError, match=f"ranker.model=.*{name}"):
            load_mllm(RankerArgs(model=str(tmp_path / name)))


def test_an_unsupported_family_is_named_with_those_that_are(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=f"family bert is not supported.*; supported are {', '.join(FAMILIES)}"):
        load_mllm(RankerArgs(model=str(tmp_path)))


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"]
)
def test_a_folder_that_lacks_a_file_of_its_processor_is_refused(llava_folder: Path, tmp_path, name):
    copy = shutil.copytree(llava_folder, tmp_path / "incomplete")
    (copy / name).unlink()
    with pytest.raises(UserError, match=r"ranker\.model=.*incomplete: "):
        load_mllm(RankerArgs(model=str(copy)))


def move_template_to_tokenizer(folder: Path, to: Path, template: str) -> Path:
    """Copies a model's folder with the chat template in tokenizer_config.json only."""
    copy = shutil.copytree(folder, to)
    (copy / "chat_template.jinja").unlink()
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return copy


def test_the_tokenizers_chat_template_is_used_where_there_is_no_other(llava: Mllm, llava_folder: Path, tmp_path):
    template = (llava_folder / "chat_template.jinja").read_text()
    folder = move_template_to_tokenizer(llava_folder, tmp_path / "older", template)
    loaded = load_mllm(RankerArgs(model=str(folder)))
    assert loaded.render(NAMING, "gules") == llava.render(NAMING, "gules")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}USER: {{ m['content'] }}{% endfor %}", "leaves out the image or the text"),
        ("{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}", "does not render an image and a text"),
        ("{% for m in messages %}{{ m['content'] }", "does not render an image and a text"),
        ("{{ raise_exception('no system role') }}", "no system role"),
    ],
)
def test_a_chat_template_for_text_alone_is_refused_when_loaded(llava_folder: Path, tmp_path, template, message):
    folder = move_template_to_tokenizer(llava_folder, tmp_path / "text", template)
    with pytest.raises(UserError, match=rf"ranker\.model=.*text: its chat template.*{message}"):
        load_mllm(RankerArgs(model=str(folder)))


@pytest.mark.parametrize("special", [False, True])
def test_a_tokenizer_larger_than_the_embeddings_is_refused_when_loaded(llava_folder: Path, tmp_path, special):
    folder = shutil.copytree(llava_folder, tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    if special:
        tokenizer.add_special_tokens({"pad_token": "<filler>"})
    else:
        tokenizer.add_tokens(["Manul", "Ocelot"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"has {rows} embeddings, .* such as '(Manul|<filler>)' \(id {rows}\)"):
        load_mllm(RankerArgs(model=str(folder)))


def test_a_processor_that_lacks_a_setting_is_refused_when_loaded(llava_folder: Path, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "older")
    config = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(config | {"patch_size": None}))
    with pytest.raises(UserError, match=r"ranker\.model=.*older: could not be loaded"):
        load_mllm(RankerArgs(model=str(folder)))


def test_an_adapter_is_not_loaded_as_a_model_and_none_is_added_silently(llava_folder: Path, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(llava_folder)
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    with pytest.raises(UserError, match=rf"lora: is an adapter of .*; set ranker\.model={llava_folder}"):
        load_mllm(RankerArgs(model=str(tmp_path / "lora")))
    both = shutil.copytree(llava_folder, tmp_path / "both")
    shutil.copytree(tmp_path / "lora", both, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"both: holds an adapter \(adapter_config\.json\)"):
        load_mllm(RankerArgs(model=str(both)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_four_bits_without_a_gpu_say_what_they_need(llava_folder: Path):
    with pytest.raises(UserError, match=r"ranker\.quantize=4bit: needs a CUDA GPU"):
        load_mllm(RankerArgs(model=str(llava_folder), quantize="4bit"))


def test_loading_gives_eval_mode_the_configured_dtype_and_an_id_from_the_weights(llava_folder: Path, tmp_path):
    mllm = load_mllm(RankerArgs(model=str(llava_folder), dtype="bfloat16"))
    assert {parameter.dtype for parameter in mllm.model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in mllm.model.modules())
    other = shutil.copytree(llava_folder, tmp_path / "tiny-llava")
    weights = load_file(other / "model.safetensors")
    assert load_mllm(RankerArgs(model=str(other))).id == mllm.id
    weights[min(weights)] = weights[min(weights)] + 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert load_mllm(RankerArgs(model=str(other))).id != mllm.id


def test_the_shipped_model_is_the_one_its_name_loads(nano: Mllm):
    by_folder = load_mllm(RankerArgs(model=str(NANO_MLLM)))
    assert by_folder.id == nano.id
    assert nano.model.config.model_type == "llava"


def test_pad_rows_pads_on_the_right():
    assert pad_rows([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
