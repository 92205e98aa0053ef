"""Pointwise rerankers: found in their files, prompted by their template, and scored as sentence-transformers does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from data_prep.core.errors import UserError
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models.forest import Conversation, yes_no_conversations
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.meta import build_on_meta
from rar_train.models.planting import plant
from rar_train.models.scoring import score
from rar_train.rerankers.templates import TEMPLATES
from tests.rar_train.tiny_families import NAMES, save_tiny
from tests.rar_train.tiny_rerankers import FALSE, TRUE, save_jina, save_reranker, score_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen3-VL with the files of a reranker."""
    return save_reranker(tmp_path_factory.mktemp("hub") / "reranker")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Two images of different shapes."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((48, 64), (80, 40))]


@pytest.mark.parametrize("instruction", [None, "Find the coat of arms."])
@pytest.mark.parametrize("false_token", [True, False])
def test_scores_equal_those_of_sentence_transformers_on_the_same_folder(tmp_path, photos, instruction, false_token):
    """``pip install --no-deps --target FOLDER sentence-transformers``, or the extra ``sentences``."""
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    folder = save_reranker(tmp_path / "model", false_token=false_token)
    theirs = cross_encoder(str(folder), device="cpu")
    pairs = [(image, name) for image in photos for name in NAMES]
    expected = theirs.predict(pairs, activation_fn=torch.nn.Identity(), prompt=instruction)
    ours = score_all(load_mllm(RankerArgs(model=str(folder), instruction=instruction)), photos)
    assert ours.flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert ours.std() > 0.05


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_vl"])
def test_one_pass_for_all_candidates_equals_a_pass_for_each_pair(tmp_path, photos, kind):
    mllm = load_mllm(RankerArgs(model=str(save_reranker(tmp_path / "model", kind))))
    yes, no = mllm.processor.tokenizer.convert_tokens_to_ids([TRUE, FALSE])
    for image, row in zip(photos, score_all(mllm, photos), strict=True):
        for name, together in zip(NAMES, row, strict=True):
            with torch.no_grad():
                logits = mllm.model(**mllm.inputs([image], [name], pairs=[True])).logits[0, -1]
            assert together.item() == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-5)


def test_the_image_is_in_one_row_and_shared_by_all_candidates(folder, photos):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    forest = plant(mllm, photos[:1], [yes_no_conversations(NAMES, (), True)])
    assert forest.ids.shape[0] == 1 and (forest.ids == mllm.config.image_token_id).sum() == 8 * 6 // 4
    mixed = plant(mllm, photos[:1], [[*yes_no_conversations(NAMES, (), True), Conversation("Which?")]])
    assert mixed.ids.shape[0] == 2  # the ordinary template begins otherwise


def test_a_pass_over_pairs_and_ordinary_conversations_gives_each_its_own_score_all(folder, photos):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    tokens = mllm.yes_no_ids()
    pairs, plain = yes_no_conversations(NAMES, (), True), [Conversation("Which?"), Conversation("What?", "A")]
    with torch.no_grad():
        together = score(mllm, plant(mllm, photos, [[plain[0], *pairs, plain[1]]] * 2), tokens)
        alone = score(mllm, plant(mllm, photos, [pairs] * 2), tokens)
    rows = together.letters.view(2, -1, 2)
    torch.testing.assert_close(rows[:, 1:].flatten(0, 1), alone.letters, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_the_other_candidates_nor_on_the_row_length(folder, photos):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    whole = score_all(mllm, photos)
    torch.testing.assert_close(score_all(mllm, photos[1:], NAMES[2:])[0], whole[1, 2:], rtol=1e-4, atol=1e-5)
    mllm.tree_tokens = 8
    torch.testing.assert_close(score_all(mllm, photos), whole, rtol=1e-4, atol=1e-5)


def test_a_description_is_shown_beside_the_name(folder, photos):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    described = score_all(mllm, photos[:1], NAMES[:2], ["like a stripe", ""])[0]
    bare = score_all(mllm, photos[:1], NAMES[:2])[0]
    assert described[1].item() == pytest.approx(bare[1].item(), abs=1e-5)
    assert described[0].item() != pytest.approx(bare[0].item(), abs=1e-4)


def test_the_template_renders_the_published_layout(folder):
    mllm = load_mllm(RankerArgs(model=str(folder), instruction="Find the shield."))
    assert mllm.render_pair("a bend") == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Find the '
        "shield.<Query>:<|vision_start|><|image_pad|><|vision_end|>\n<Document>:a bend<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "<| image_pad|>" in mllm.render_pair("<|image_pad|>").replace("< |", "<| ")
    without_weights = build_on_meta(RankerArgs(model=str(folder)), folder)
    assert without_weights.reranker == load_mllm(RankerArgs(model=str(folder))).reranker


def test_an_adapter_keeps_the_template_and_starts_from_the_same_score_all(folder, photos):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    before = score_all(mllm, photos)
    adapted = add_lora(mllm, LoraArgs(rank=2))
    assert adapted.reranker is not None
    torch.testing.assert_close(score_all(adapted, photos), before, rtol=1e-4, atol=1e-5)


def test_a_template_may_come_from_a_file_or_from_the_table(tmp_path, folder):
    plain = save_tiny("qwen3_vl", tmp_path / "plain")
    shutil.copytree(folder / "1_LogitScore", plain / "1_LogitScore")
    shutil.copy(folder / "modules.json", plain)
    assert load_mllm(RankerArgs(model=str(plain))).reranker is None
    (tmp_path / "mine.jinja").write_text(TEMPLATES["qwen3_vl"])
    texts = [
        load_mllm(RankerArgs(model=str(plain), reranker_template=template)).render_pair("a bend")
        for template in ("qwen3_vl", str(tmp_path / "mine.jinja"))
    ]
    assert texts[0] == texts[1] == load_mllm(RankerArgs(model=str(folder))).render_pair("a bend")


def test_what_is_missing_is_named(tmp_path, folder):
    plain = str(save_tiny("qwen3_vl", tmp_path / "plain"))
    with pytest.raises(UserError, match=r"ranker\.instruction: .* has no reranker's template"):
        load_mllm(RankerArgs(model=plain, instruction="Find it."))
    with pytest.raises(UserError, match=r"reranker_template=nowhere: no such file; templates with a name are qwen3_vl"):
        load_mllm(RankerArgs(model=plain, reranker_template="nowhere"))
    with pytest.raises(UserError, match="no token 'yes', with which rerankers answer"):
        load_mllm(RankerArgs(model=plain, reranker_template="qwen3_vl"))
    (tmp_path / "blind.jinja").write_text("{{ messages[-1].content[0].text }}")
    with pytest.raises(UserError, match=r"blind\.jinja of .*: leaves out the image"):
        load_mllm(RankerArgs(model=str(folder), reranker_template=str(tmp_path / "blind.jinja")))
    (tmp_path / "broken.jinja").write_text("{{ messages[7].content }}")
    with pytest.raises(UserError, match=r"broken\.jinja of .*: does not render an image and a name"):
        load_mllm(RankerArgs(model=str(folder), reranker_template=str(tmp_path / "broken.jinja")))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 10**6}))
    with pytest.raises(UserError, match="true_token_id=1000000 of its LogitScore is no token of its tokenizer"):
        load_mllm(RankerArgs(model=str(other)))


def test_the_tokens_are_yes_and_no_where_no_file_names_them(tmp_path, folder):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "modules.json").unlink()
    processor = AutoProcessor.from_pretrained(other)
    processor.tokenizer.add_tokens(["yes", "no"])
    processor.save_pretrained(other)
    args = RankerArgs(model=str(other))
    with pytest.raises(UserError, match="embeddings"):  # of this tiny model; those of real ones have both
        load_mllm(args)
    from rar_train.rerankers.reranker import find_reranker

    reranker = find_reranker(args, other, AutoProcessor.from_pretrained(other))
    assert list(reranker.tokens) == processor.tokenizer.convert_tokens_to_ids(["yes", "no"])


def test_jinas_head_reads_a_token_after_its_own_prompt(tmp_path, photos):
    """As the code beside jina-reranker-m0's weights: prompt, token 100, two layers on its hidden state, less 2.65."""
    head = save_jina(tmp_path / "model")
    mllm = load_mllm(RankerArgs(model=str(tmp_path / "model")))
    assert mllm.render_pair("a bend") == (
        "**Document**:\n<|vision_start|><|image_pad|><|vision_end|>\n**Query**:\na bend"
    )
    expected = []
    for image in photos:
        for name in NAMES:
            inputs = mllm.processor(images=[image], text=[mllm.render_pair(name)], return_tensors="pt")
            for key, value in (("input_ids", 100), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                if key in inputs:
                    inputs[key] = torch.cat([inputs[key], torch.tensor([[value]])], 1)
            with torch.no_grad():
                state = mllm.model.model(**inputs).last_hidden_state[0, -1]
            hidden = torch.relu(head["score.0.weight"] @ state + head["score.0.bias"])
            expected.append((head["score.2.weight"] @ hidden + head["score.2.bias"]).item() - 2.65)
    found = score_all(mllm, photos)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-4) and found.std() > 0.05
    adapted = add_lora(mllm, LoraArgs(rank=2))
    torch.testing.assert_close(score_all(adapted, photos), found, rtol=1e-4, atol=1e-4)


def test_another_head_is_refused_and_a_cut_one_too(tmp_path):
    head = save_jina(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"architectures": ["Other"]}))
    with pytest.raises(UserError, match=r"has a head of its own \(score\.0\.bias\), as some rerankers do"):
        load_mllm(RankerArgs(model=str(tmp_path / "model")))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["score.2.bias"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"its files lack score\.2\.bias, a weight of the reranker's head"):
        load_mllm(RankerArgs(model=str(tmp_path / "model")))
    assert len(head) == 4
