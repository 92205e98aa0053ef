"""The retriever's LightningModule: fine-tunes an open_clip model contrastively on labelled images."""

from __future__ import annotations

import math
import re

import lightning as L
import peft
import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import MultiheadAttention
from torch import Tensor, nn

from data_prep.settings import Recipe, TuningArgs
from rar_train.engine.schedule import warmup_cosine
from rar_train.retriever.qkv_attention import join_attentions, split_attentions


def class_contrastive_loss(image: Tensor, text: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Computes CLIP's symmetric loss, with images of one class as positives of each other's captions.

    Each row's target is uniform over its positives (UniCL, arXiv 2204.03610, equations 3 and 4). Where all labels
    differ it equals open_clip's ``ClipLoss``.

    Args:
        image: Unit embeddings, shape ``[n, d]``.
        text: Unit embeddings of the captions, shape ``[n, d]``.
        labels: Class labels, shape ``[n]``.
        scale: Factor of the cosine similarities (inverse temperature), above 0.
    """
    logits = scale * image @ text.T
    positive = (labels[:, None] == labels[None, :]).float()
    target = positive / positive.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _tower_parameters(model: nn.Module, towers: str) -> set[str]:
    """Returns the names of the chosen towers' parameters and of the logit scale, which belongs to both."""
    image = {name for name, _ in model.named_parameters() if name.startswith("visual.")}
    everything = {name for name, _ in model.named_parameters()}
    return {"image": image | {"logit_scale"}, "text": everything - image, "both": everything}[towers]


def _adapted_modules(model: nn.Module, towers: str) -> str:
    """Finds attention and linear layers of the chosen towers by type, since architectures name them differently.

    Returns:
        str: A regular expression, which peft matches against full names. A list would be matched as suffixes, and a
        text tower's names are suffixes of an image tower's.
    """
    chosen = _tower_parameters(model, towers)
    attentions = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(name.startswith(f"{outer}.") for outer in attentions)
    ]
    owners = {name.rpartition(".")[0] for name in chosen}
    adapted = [
        name for name in attentions + linears if any(owner == name or owner.startswith(f"{name}.") for owner in owners)
    ]
    return "|".join(re.escape(name) for name in adapted)


def _attention_matrices(model: nn.Module, towers: str) -> str:
    """Finds the query, key and value matrices of the chosen towers, after giving each a layer of its own.

    Returns:
        str: A regular expression, as of ``_adapted_modules``.
    """

    def is_chosen(name: str) -> bool:
        is_image = name == "visual" or name.startswith("visual.")
        return {"image": is_image, "text": not is_image, "both": True}[towers]

    return "|".join(re.escape(name) for name in split_attentions(model, is_chosen))


def prepare_model(model: nn.Module, args: TuningArgs) -> nn.Module:
    """Makes adapters in the chosen towers trainable, or all weights of the towers.

    Returns:
        nn.Module: The model, still with ``encode_image`` and ``encode_text``.
    """
    if args.lora_rank:
        is_qkv = args.lora_layers == "qkv"
        config = peft.LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            use_rslora=is_qkv,
            target_modules=_attention_matrices(model, args.towers) if is_qkv else _adapted_modules(model, args.towers),
            bias="none",
        )
        model = peft.get_peft_model(model, config)
        scale = model.base_model.model.logit_scale
    else:
        chosen = _tower_parameters(model, args.towers)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        scale = model.logit_scale
    scale.requires_grad_(args.loss == "contrastive")
    return model


def merge_adapters(model: nn.Module, args: TuningArgs) -> nn.Module:
    """Returns the plain open_clip model, with the adapters merged into its weights."""
    return join_attentions(model.merge_and_unload(safe_merge=True)) if args.lora_rank else model


class TuningModule(L.LightningModule):
    """What every tuning of an encoder shares: optimiser, training mode, and checkpoints of the trained weights.

    Args:
        recipe: The run's recipe.
        model: Model from ``prepare_model``.
        names: Token ids of class names, shape ``[classes, ..., context]``.
        steps: Optimiser steps in the complete run, for the schedule.
    """

    # A checkpoint holds only what training changes; the rest is loaded from its own files.
    strict_loading = False
    BETAS = (0.9, 0.98)

    def __init__(self, recipe: Recipe, model: nn.Module, names: Tensor, steps: int):
        super().__init__()
        self.recipe, self.model, self.names, self.steps = recipe, model, names, steps

    def on_train_start(self) -> None:
        """Sets training mode: open_clip loads models in eval mode, and Lightning keeps the mode that it finds."""
        self.train()

    def configure_optimizers(self) -> dict:
        """Builds AdamW on the trainable parameters, with warm-up and cosine decay."""
        optim = self.recipe.optim
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=optim.lr, weight_decay=optim.weight_decay, betas=self.BETAS)
        return warmup_cosine(optimizer, optim.warmup_ratio, self.steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keeps only trained parameters, and those that change with them, in the checkpoint."""
        saved = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        # In every pass peft adds an attention's adapter to these weights and subtracts it again, which rounds them.
        for name, module in self.named_modules():
            if isinstance(module, MultiheadAttention):
                saved |= {f"{name}.base_layer.{weight}" for weight in ("in_proj_weight", "out_proj.base_layer.weight")}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in saved}


class RetrieverModule(TuningModule):
    """Trains on pairs of image and caption; validates by retrieval among the validation classes' names.

    ``names`` has the validation classes' names, shape ``[classes, templates, context]``.
    """

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _) -> Tensor:
        """Computes the loss over the pairs of all processes."""
        pixels, ids, labels = batch
        image = F.normalize(self.model.encode_image(pixels).float(), dim=-1)
        text = F.normalize(self.model.encode_text(ids).float(), dim=-1)
        if self.trainer.world_size > 1:
            image, text = (self.all_gather(value, sync_grads=True).flatten(0, 1) for value in (image, text))
            labels = self.all_gather(labels).flatten()
        loss = class_contrastive_loss(image, text, labels, self.model.logit_scale.exp())
        self.log("train/loss", loss, batch_size=len(pixels))
        return loss

    def on_train_batch_end(self, *_) -> None:
        """Clamps the logit scale to at most 100, as CLIP does."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))

    def on_validation_epoch_start(self) -> None:
        """Embeds the validation classes' names, once for all images."""
        ids = self.names.to(self.device)
        embeddings = torch.cat([self.model.encode_text(rows).float() for rows in ids.flatten(0, 1).split(256)])
        means = F.normalize(embeddings, dim=-1).unflatten(0, ids.shape[:2]).mean(1)
        self.name_embeddings = F.normalize(means, dim=-1)

    def validation_step(self, batch: tuple[Tensor, Tensor], _) -> None:
        """Logs the share of images whose class is the nearest (top 1) and among the k nearest (recall at k)."""
        pixels, targets = batch
        image = F.normalize(self.model.encode_image(pixels).float(), dim=-1)
        k = min(self.recipe.eval.fixed_k, len(self.name_embeddings))
        hits = (image @ self.name_embeddings.T).topk(k).indices == targets[:, None]
        metrics = {"val/top1": hits[:, 0].float().mean(), "val/recall_at_k": hits.any(1).float().mean()}
        self.log_dict(metrics, batch_size=len(targets), sync_dist=True)
