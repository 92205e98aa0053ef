"""A LoRA step of this project and of TRL's SFTTrainer with peft: tokens per second and peak memory, side by side.

    pip install trl
    python benchmarks/train_step.py [--against compiled] [--small]

The same random LLaVA, pictures, prompts, batch, precision and adapter, by turns, each turn in a process of its own: on
a CPU about 100 million parameters in float32; on a GPU the shape of LLaVA-1.5 7B in bfloat16 with gradient
checkpointing. The objective is the one that both have: the language-model loss on the sorted list.

On 2026-11-27, two x86_64 cores, ``python benchmarks/train_step.py`` (torch 2.11, transformers 5.17, TRL 1.16): ours 355
tokens/s and 4.8 GB at most, TRL's 245 and 5.5 GB; ``ratio_to_trl`` 1.45. ``trainer.compile`` gains nothing there:
``--against compiled`` found 382 tokens/s with it and 406 without.

On 2026-11-28, one NVIDIA H200, the first of these commands (torch 2.11, transformers 5.24, TRL 1.16), medians of two
turns: ours 6,405 tokens/s, MFU 0.18 and 21.8 GB at most, TRL's 6,622, 0.19 and 18.8 GB; ``ratio_to_trl`` 0.97. There
our backward pass still ran through the frozen tower, as transformers 5.24's gradient checkpointing has it by default.
It no longer does, and was not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.records import Candidate, RankingExample
from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from rar_train.models.families import FAMILIES
from rar_train.models.lora import lora_config, parameter_table
from rar_train.models.mllm import Mllm
from rar_train.nano.architecture import CHAT_TEMPLATE
from rar_train.nano.tokenizer import IMAGE, nano_tokenizer
from rar_train.ranker.collate import collate, shuffled
from rar_train.ranker.module import RankerModule
from rar_train.ranker.monitor import Monitor, peak_flops

PATCH, K = 14, 5


@dataclass(frozen=True)
class Size:
    """What is trained, and how much of it."""

    text: dict
    tower: dict
    pixels: int
    batch: int
    warm: int
    timed: int
    gradient_checkpointing: bool
    workers: int = 0


def _shape(width: int, inner: int, layers: int, heads: int) -> dict:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip


def size_of(small: bool, compiling: bool) -> Size:
    """The shape that the machine can carry; layers that are compiled again for some lengths take more steps to warm."""
    size = _size_of(small)
    return replace(size, warm=8, timed=12) if compiling else size


def _size_of(small: bool) -> Size:
    if small:
        return Size(_shape(64, 128, 2, 2), _shape(64, 128, 2, 2), 56, 2, 1, 2, False)
    if torch.cuda.is_available():
        return Size(_shape(4096, 11008, 32, 32), _shape(1024, 4096, 24, 16), 336, 8, 3, 10, True, 4)
    return Size(_shape(640, 1728, 10, 10), _shape(512, 2048, 8, 8), 224, 4, 1, 4, False)


def parts(size: Size) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The random model and its processor."""
    tokenizer = nano_tokenizer(append_eos=False)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size.tower, image_size=size.pixels, patch_size=PATCH),
        text_config=LlamaConfig(**size.text, **ids, vocab_size=32_000, max_position_embeddings=4096),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(size.pixels // PATCH) ** 2,
    )
    square = {"height": size.pixels, "width": size.pixels}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=square, crop_size=square), tokenizer, patch_size=PATCH, chat_template=CHAT_TEMPLATE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if torch.cuda.is_available() else torch.float32)
        model = LlavaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    return model, processor


def examples(count: int) -> list[tuple[RankingExample, Image.Image]]:
    """Armory's shields with five candidates each."""
    classes = draw_classes("train", 40, 4, 0)
    made = []
    for number in range(count):
        chosen = np.random.default_rng(number).permutation(len(classes))[:K].tolist()
        candidates = tuple(Candidate(label, classes[label].name, -place) for place, label in enumerate(chosen))
        picture = render(classes[chosen[number % K]], 96, np.random.default_rng([1, number]))
        made.append((RankingExample(f"example-{number}", chosen[number % K], candidates), picture))
    return made


def settings(size: Size, out: str) -> list[str]:
    """The recipe's settings that both sides follow."""
    return [
        "recipe=ranker_lora", f"out={out}", "ranker.lora.scope=language", "ranker.objectives.letters=0",
        "ranker.objectives.likelihood=0", "ranker.objectives.list=1", "optim.lr=1e-4", "trainer.log_every=1000",
        f"trainer.gradient_checkpointing={str(size.gradient_checkpointing).lower()}", f"optim.batch_size={size.batch}",
        "trainer.precision=" + ("bf16-mixed" if torch.cuda.is_available() else "32-true"),
    ]  # fmt: skip


def rate(stamps: list[float], tokens: list[int], size: Size, mllm: Mllm, recipe: Recipe) -> dict:
    """Figures of a turn from the times at which its steps ended; MFU by the trainer's own formula."""
    seconds = stamps[-1] - stamps[size.warm - 1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    used = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, trainable, total = parameter_table(mllm)[-1]
    metrics = {
        "tokens_per_s": sum(tokens[size.warm :]) / seconds, "tokens": sum(tokens), "peak_gb": used / 1e9,
        "parameters": total, "trainable": trainable,
    }  # fmt: skip
    peak = peak_flops(device, recipe.trainer.precision)
    if peak is not None:
        metrics["mfu"] = metrics["tokens_per_s"] * Monitor(recipe, (trainable, total)).flops_per_token / peak
    return metrics


def ours(size: Size, *more: str) -> dict:
    """Runs this project's trainer, with more of the recipe's settings."""
    import lightning as L
    from torch.utils.data import DataLoader

    model, processor = parts(size)
    steps = size.warm + size.timed
    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe([*settings(size, out), *more])
        module = RankerModule(recipe, Mllm(model, processor, FAMILIES["llava"], "random"), steps)
        stamps, tokens = [], []

        class Clock(L.Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                stamps.append(time.perf_counter())
                tokens.append(batch.tokens)

        loader = DataLoader(
            examples(size.batch * steps), batch_size=size.batch, num_workers=size.workers,
            collate_fn=lambda rows: collate(module.mllm, rows, ["list"], 0, [0] * len(rows)),
        )  # fmt: skip
        trainer = L.Trainer(
            max_steps=steps, accelerator="auto", devices=1, gradient_clip_val=1.0, logger=False, default_root_dir=out,
            precision="bf16-mixed" if torch.cuda.is_available() else "32-true", callbacks=[Clock()],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return rate(stamps, tokens, size, module.mllm, recipe)


def trl(size: Size) -> dict:
    """Runs TRL's SFTTrainer on the same."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, processor = parts(size)
    steps = size.warm + size.timed
    rows = []
    for example, picture in examples(size.batch * steps):
        names = [candidate.name for candidate in shuffled(example, 0, 0).candidates]
        target = [example.candidates[example.truth].name]
        target += [candidate.name for candidate in example.candidates if candidate.label != example.label]
        rows.append(
            {
                "images": [picture],
                "prompt": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "text": None}, {"type": "text", "text": list_prompt(names)}],
                    }
                ],
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": list_answer(target)}]}],
            }
        )
    stamps, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    class Counting(SFTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe(settings(size, out))
        mllm = Mllm(model, processor, FAMILIES["llava"], "random")
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=size.batch, max_steps=steps, learning_rate=1e-4,
            max_length=None, weight_decay=recipe.optim.weight_decay, max_grad_norm=1.0,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=size.gradient_checkpointing, use_cpu=not torch.cuda.is_available(),
            dataloader_num_workers=size.workers, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Counting(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=processor,
            peft_config=lora_config(mllm, recipe.ranker.lora), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
        return rate(stamps, tokens, size, Mllm(trainer.model, processor, FAMILIES["llava"], "random"), recipe)


def compiled(size: Size) -> dict:
    """This project's trainer with ``trainer.compile``."""
    return ours(size, "trainer.compile=true")


def turn(side: str) -> dict:
    """Runs one side, with the command's own options, in a process of its own, whose last line is its figures."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--against", choices=("trl", "compiled"), default="trl")
    parser.add_argument("--side", choices=("ours", "trl", "compiled"))
    args = parser.parse_args()
    size = size_of(args.small, args.against == "compiled")
    if args.side:
        print(json.dumps({"ours": ours, "trl": trl, "compiled": compiled}[args.side](size)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    found: dict[str, list[dict]] = {"ours": [], args.against: []}
    for _ in range(2):
        for side, metrics in found.items():
            last = turn(side)
            metrics.append(last)
            print(f"{side}: {last['tokens_per_s']:.1f} tokens/s, peak {last['peak_gb']:.2f} GB", flush=True)
        typical = {
            f"{side}_{key}": statistics.median(metrics[key] for metrics in turns)
            for side, turns in found.items() for key in turns[0]
        }  # fmt: skip
        ratio = typical["ours_tokens_per_s"] / typical[f"{args.against}_tokens_per_s"]
        print(f"{device}: {ratio:.2f} times the tokens/s of {args.against}")
        # After each round, so that one that is cut off leaves the figures of those before it.
        rest = {f"ratio_to_{args.against}": ratio, "rounds": len(metrics), "device": device, "size": asdict(size)}
        print(json.dumps(typical | rest), flush=True)


if __name__ == "__main__":
    main()
