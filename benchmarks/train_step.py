"""LoRA training step of this project and of TRL's SFTTrainer with peft: tokens per second and peak memory.

    pip install trl
    python benchmarks/train_step.py [--against compiled] [--small]

Both use the same random LLaVA, images, prompts, batch, precision and adapter, alternately, each turn in a separate
process: on a CPU about 100 million parameters in float32; on a GPU the shape of LLaVA-1.5 7B in bfloat16 with gradient
checkpointing. The objective is the one that both have: the language-model loss on the sorted list.

On 2026-11-27, two x86_64 cores, ``python benchmarks/train_step.py`` (torch 2.11, transformers 5.17, TRL 1.16): ours 355
tokens/s and a peak of 4.8 GB, TRL's 245 and 5.5 GB; ``ratio_to_trl`` 1.45. ``trainer.compile`` gains nothing there:
``--against compiled`` measured 382 tokens/s with it and 406 without.

On 2026-11-28, one NVIDIA H200, the first of these commands (torch 2.11, transformers 5.24, TRL 1.16), medians of two
turns: ours 6,405 tokens/s, MFU 0.18 and a peak of 21.8 GB, TRL's 6,622, 0.19 and 18.8 GB; ``ratio_to_trl`` 0.97. There
our backward pass still ran through the frozen tower, the default of gradient checkpointing in transformers 5.24.
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
from data_prep.core.rng import shuffle_candidates
from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from rar_train.models.families import FAMILIES
from rar_train.models.lora import lora_config, parameter_table
from rar_train.models.mllm import Mllm
from rar_train.nano.architecture import CHAT_TEMPLATE
from rar_train.nano.tokenizer import IMAGE, nano_tokenizer
from rar_train.ranker.collate import collate
from rar_train.ranker.module import RankerModule
from rar_train.ranker.monitor import Monitor, peak_flops

PATCH, K = 14, 5


@dataclass(frozen=True)
class Size:
    """Model sizes, batch size and number of steps."""

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


def choose_size(small: bool, compiling: bool) -> Size:
    """Chooses a size that fits the machine; compiled layers, recompiled for some lengths, need more warm-up steps."""
    size = _choose_size(small)
    return replace(size, warm=8, timed=12) if compiling else size


def _choose_size(small: bool) -> Size:
    if small:
        return Size(_shape(64, 128, 2, 2), _shape(64, 128, 2, 2), 56, 2, 1, 2, False)
    if torch.cuda.is_available():
        return Size(_shape(4096, 11008, 32, 32), _shape(1024, 4096, 24, 16), 336, 8, 3, 10, True, 4)
    return Size(_shape(640, 1728, 10, 10), _shape(512, 2048, 8, 8), 224, 4, 1, 4, False)


def make_model(size: Size) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Makes the random model and its processor."""
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


def make_examples(count: int) -> list[tuple[RankingExample, Image.Image]]:
    """Makes ranking examples of armory's shields with five candidates each."""
    classes = draw_classes("train", 40, 4, 0)
    examples = []
    for index in range(count):
        labels = np.random.default_rng(index).permutation(len(classes))[:K].tolist()
        candidates = tuple(Candidate(label, classes[label].name, -rank) for rank, label in enumerate(labels))
        image = render(classes[labels[index % K]], 96, np.random.default_rng([1, index]))
        examples.append((RankingExample(f"example-{index}", labels[index % K], candidates), image))
    return examples


def settings(size: Size, out: str) -> list[str]:
    """Returns the recipe's settings that both sides use."""
    return [
        "recipe=ranker_lora", f"out={out}", "ranker.lora.scope=language", "ranker.objectives.letters=0",
        "ranker.objectives.likelihood=0", "ranker.objectives.list=1", "optim.lr=1e-4", "trainer.log_every=1000",
        f"trainer.gradient_checkpointing={str(size.gradient_checkpointing).lower()}", f"optim.batch_size={size.batch}",
        "trainer.precision=" + ("bf16-mixed" if torch.cuda.is_available() else "32-true"),
    ]  # fmt: skip


def rate(stamps: list[float], tokens: list[int], size: Size, mllm: Mllm, recipe: Recipe) -> dict:
    """Computes a turn's metrics from the times at which its steps ended; MFU by the trainer's formula."""
    seconds = stamps[-1] - stamps[size.warm - 1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    used = torch.cuda.max_memory_allocated() if device.type == "cuda" else read_peak_memory()
    _, trainable, total = parameter_table(mllm)[-1]
    metrics = {
        "tokens_per_s": sum(tokens[size.warm :]) / seconds, "tokens": sum(tokens), "peak_gb": used / 1e9,
        "parameters": total, "trainable": trainable,
    }  # fmt: skip
    peak = peak_flops(device, recipe.trainer.precision)
    if peak is not None:
        metrics["mfu"] = metrics["tokens_per_s"] * Monitor(recipe, (trainable, total)).flops_per_token / peak
    return metrics


def read_peak_memory() -> int:
    """Returns the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux


def ours(size: Size, *more: str) -> dict:
    """Runs this project's trainer, with additional settings of the recipe."""
    import lightning as L
    from torch.utils.data import DataLoader

    model, processor = make_model(size)
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
            make_examples(size.batch * steps), batch_size=size.batch, num_workers=size.workers,
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
    """Runs TRL's SFTTrainer on the same data and model."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, processor = make_model(size)
    steps = size.warm + size.timed
    rows = []
    for example, image in make_examples(size.batch * steps):
        names = [candidate.name for candidate in shuffle_candidates(example, 0, 0).candidates]
        target = [example.candidates[example.truth].name]
        target += [candidate.name for candidate in example.candidates if candidate.label != example.label]
        rows.append(
            {
                "images": [image],
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
    """Runs one side, with the command's options, in a separate process, whose last line of output is its metrics."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--against", choices=("trl", "compiled"), default="trl")
    parser.add_argument("--side", choices=("ours", "trl", "compiled"))
    args = parser.parse_args()
    size = choose_size(args.small, args.against == "compiled")
    if args.side:
        print(json.dumps({"ours": ours, "trl": trl, "compiled": compiled}[args.side](size)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    results: dict[str, list[dict]] = {"ours": [], args.against: []}
    for _ in range(2):
        for side, metrics in results.items():
            last = turn(side)
            metrics.append(last)
            print(f"{side}: {last['tokens_per_s']:.1f} tokens/s, peak {last['peak_gb']:.2f} GB", flush=True)
        typical = {
            f"{side}_{key}": statistics.median(metrics[key] for metrics in turns)
            for side, turns in results.items() for key in turns[0]
        }  # fmt: skip
        ratio = typical["ours_tokens_per_s"] / typical[f"{args.against}_tokens_per_s"]
        print(f"{device}: {ratio:.2f} times the tokens/s of {args.against}")
        # Printed after each round, so that an interrupted benchmark leaves the metrics of the rounds before.
        rest = {f"ratio_to_{args.against}": ratio, "rounds": len(metrics), "device": device, "size": asdict(size)}
        print(json.dumps(typical | rest), flush=True)


if __name__ == "__main__":
    main()
