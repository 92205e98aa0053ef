"""The cache key of answers changes with everything that changes an answer."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.core.files import write_json
from data_prep.core.paths import NANO_MLLM
from data_prep.settings import LoraArgs, RankerArgs, ServerArgs
from eval.ranking import answer_key
from eval.ranking.answer_key import models_key
from tests.serving import Nano, serve


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_json(tmp_path / "adapter" / "manifest.json", {"base_model": "llava-1", "adapter": "2"})
    write_json(tmp_path / "adapter" / "adapter_config.json", {"lora_alpha": 32})
    return tmp_path / "adapter"


def test_every_setting_of_the_models_changes_the_key_and_those_of_training_do_not(adapter):
    args = RankerArgs()
    changed = {"dtype": "bfloat16", "quantize": "4bit", "max_pixels": 10_000, "model": "llava-hf/llava-1.5-7b-hf"}
    keys = [models_key(replace(args, **{name: value}), adapter) for name, value in changed.items()]
    assert len({models_key(args, adapter), *keys}) == 1 + len(changed)
    training = replace(args, lora=LoraArgs(rank=4), max_tokens=300)
    assert models_key(training, adapter) == models_key(args, adapter)


def test_other_weights_another_alpha_and_another_chat_template_change_the_key(adapter, tmp_path):
    base = shutil.copytree(NANO_MLLM, tmp_path / "base")
    args = RankerArgs(model=str(base))
    keys = [models_key(args, adapter)]
    write_json(adapter / "adapter_config.json", {"lora_alpha": 64})
    keys.append(models_key(args, adapter))
    for metadata in ({"base_model": "llava-2", "adapter": "2"}, {"base_model": "llava-1", "adapter": "3"}):
        write_json(adapter / "manifest.json", metadata)
        keys.append(models_key(args, adapter))
    (base / "chat_template.jinja").write_text("{{ messages }}")
    keys.append(models_key(args, adapter))
    assert len(set(keys)) == 5


def test_a_servers_address_leaves_the_key_and_its_models_and_settings_change_it(adapter):
    listing = {"base": "/models/one", "tuned": "/adapters/one"}

    class Listed(Nano):
        def listing(self) -> dict:
            return {"data": [{"id": name, "owned_by": "vllm", "root": root} for name, root in listing.items()]}

    def key(**changes) -> str:
        with serve(Listed({})) as url:
            server = ServerArgs(**{"base_url": url, "served_model": "base", "served_adapter": "tuned"} | changes)
            return models_key(RankerArgs(mode="letters", backend="openai", server=server), adapter)

    keys = [key()]
    assert key(timeout_s=1, max_requests=3, parity_images=0) == keys[0]
    for changes in ({"image_format": "jpeg"}, {"extra_body": '{"seed": 1}'}, {"served_adapter": "base"}):
        keys.append(key(**changes))
    for name in listing:
        listing[name] += "/another"
        keys.append(key())
    assert len({*keys, models_key(RankerArgs(), adapter)}) == 7


@pytest.mark.parametrize("name", ["VERSION", "_PROMPTS"])
def test_a_release_that_changes_image_decoding_or_prompts_changes_the_key(adapter, monkeypatch, name):
    before = models_key(RankerArgs(), adapter)
    monkeypatch.setattr(answer_key, name, "another")
    assert models_key(RankerArgs(), adapter) != before
