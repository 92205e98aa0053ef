"""Check that a training step is likely to fit in memory, with what to change where it does not."""

from __future__ import annotations

from dataclasses import replace

from data_prep.core.records import RankingExample
from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import Recipe
from rar_train.doctor.findings import Finding
from rar_train.engine.memory_estimate import Estimate, ModelSizes, device_memory, estimate
from rar_train.models.lora import add_lora, parameter_table
from rar_train.models.mllm import Mllm
from rar_train.ranker.checkpointing import example_tokens, needs_checkpointing


def check_fit(recipe: Recipe, mllm: Mllm, example: RankingExample, size: tuple[int, int]) -> list[Finding]:
    """Checks that a training step is likely to fit, and that the strategy suits it; an adapter is added to ``mllm``.

    Args:
        recipe: The ranker's recipe.
        mllm: Its model; weights are not needed.
        example: A long example.
        size: Width and height of its image.
    """
    tokens = example_tokens(mllm, example, recipe.ranker.objectives.weights, size)
    trainable, total = parameter_table(add_lora(mllm, recipe.ranker.lora))[-1][1:]
    sizes = ModelSizes.of(mllm.base.config, trainable, total)
    kind, available = resolve_accelerator(recipe.trainer), device_memory(recipe.trainer)
    checkpointing = recipe.trainer.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = needs_checkpointing(recipe, sizes, tokens, available)
    needed = estimate(recipe, sizes, tokens, bool(checkpointing))
    text = (
        f"{needed}, estimated from shapes: {trainable:,} of {total:,} parameters trained, {tokens} tokens an example, "
        f"{'with' if checkpointing else 'without'} gradient checkpointing"
    )
    if available is None:
        return [Finding("memory", "not checked", f"{text}; this system does not report its memory")]
    text = f"{text}; of {available / 2**30:.1f} GiB ({kind})"
    if needed.total > available:
        status = "failure" if needed.weights > available else "warning"
        return [Finding("memory", status, text, suggest_changes(recipe, needed, available))]
    if recipe.trainer.zero_stage == 3:
        stage_2 = replace(recipe, trainer=replace(recipe.trainer, strategy="deepspeed_stage_2", offload="none"))
        if estimate(stage_2, sizes, tokens, bool(checkpointing)).total < available:
            advice = "it fits without stage 3: deepspeed_stage_2 or ddp send less between processes"
            return [Finding("memory", "ok", text, advice)]
    return [Finding("memory", "ok", text)]


def suggest_changes(recipe: Recipe, needed: Estimate, available: float) -> str:
    """Suggests settings to change where a step does not fit, the cheapest first."""
    trainer, ranker, changes = recipe.trainer, recipe.ranker, []
    if needed.activations > 0.3 * available and trainer.gradient_checkpointing is False:
        changes.append("trainer.gradient_checkpointing=true")
    if needed.activations > 0.3 * available and recipe.optim.batch_size > 1:
        half = recipe.optim.batch_size // 2
        changes.append(f"optim.batch_size={half} optim.grad_accum_steps={2 * recipe.optim.grad_accum_steps}")
    if needed.weights > 0.5 * available:
        if ranker.dtype == "float32":
            changes.append("ranker.dtype=bfloat16 trainer.precision=bf16-mixed")
        if trainer.zero_stage == 3:
            changes += ["trainer.offload=all"] if trainer.offload != "all" else []
        elif ranker.quantize == "none":
            changes.append("ranker.quantize=4bit, or trainer.strategy=deepspeed_stage_3 on several GPUs")
    return "; ".join(changes) or "lower optim.batch_size or ranker.max_pixels"
