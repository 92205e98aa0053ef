"""The retriever's LightningModule: an open_clip model, tuned contrastively on labelled images."""

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


def class_contrastive_loss(image: Tensor, text: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss where images of one class are positives of each other's captions.

    Each row's target is spread evenly over its positives (UniCL, arXiv 2204.03610, equations 3
    and 4). Where all labels differ it is open_clip's ``ClipLoss``.

    Args:
        image: Unit embeddings, shape ``[n, d]``.
        text: Unit embeddings of the captions, shape ``[n, d]``.
        labels: Classes, shape ``[n]``.
        scale: Factor of the cosines, above 0.
    """
    logits = scale * image @ text.T
    positive = (labels[:, None] == labels[None, :]).float()
    target = positive / positive.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _tower_parameters(model: nn.Module, towers: str) -> set[str]:
    """Names of the parameters of the chosen towers, and the scale of the cosines, which belongs to both."""
    image = {name for name, _ in model.named_parameters() if name.startswith("visual.")}
    everything = {name for name, _ in model.named_parameters()}
    return {"image": image | {"logit_scale"}, "text": everything - image, "both": everything}[towers]


def _adapted_modules(model: nn.Module, towers: str) -> str:
    """Attention and linear layers of the chosen towers, by their types, since architectures name them differently.

    Returns:
        str: A regular expression for peft, which compares it whole; it takes a list for endings, and a text tower's
        names are endings of an image tower's.
    """
    chosen = _tower_parameters(model, towers)
    attentions = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(name.startswith(f"{outer}.") for outer in attentions)
    ]
    owned = {name.rpartition(".")[0] for name in chosen}
    adapted = [name for name in attentions + linears if any(o == name or o.startswith(f"{name}.") for o in owned)]
    return "|".join(re.escape(name) for name in adapted)


def prepare_model(model: nn.Module, args: TuningArgs) -> nn.Module:
    """Chooses what is trainable: adapters in the chosen towers, or all their weights.

    Returns:
        nn.Module: With ``encode_image`` and ``encode_text`` as before.
    """
    if args.lora_rank:
        config = peft.LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            target_modules=_adapted_modules(model, args.towers),
            bias="none",
        )
        model = peft.get_peft_model(model, config)
        model.base_model.model.logit_scale.requires_grad_(True)
    else:
        chosen = _tower_parameters(model, args.towers)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
    return model


def merge_adapters(model: nn.Module, args: TuningArgs) -> nn.Module:
    """The plain open_clip model, adapters merged in."""
    return model.merge_and_unload(safe_merge=True) if args.lora_rank else model


class RetrieverModule(L.LightningModule):
    """Trains on pairs of image and caption; validates by retrieval among the validation classes' names.

    Args:
        recipe: The run's recipe.
        model: What ``prepare_model`` gave.
        names: Token ids of the validation classes' names, shape ``[classes, templates, context]``.
        steps: Optimiser steps in the whole run, for the schedule.
    """

    # A checkpoint holds what training changes; the rest comes from its own files.
    strict_loading = False

    def __init__(self, recipe: Recipe, model: nn.Module, names: Tensor, steps: int):
        super().__init__()
        self.recipe, self.model, self.names, self.steps = recipe, model, names, steps

    def on_train_start(self) -> None:
        """open_clip's models are loaded in eval mode and Lightning keeps what it finds."""
        self.train()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _) -> Tensor:
        """The loss over the pairs of all processes."""
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
        """Keeps the scale of the cosines where CLIP keeps it, at 100 or below."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))

    def on_validation_epoch_start(self) -> None:
        """Embeds the names once for all images."""
        ids = self.names.to(self.device)
        each = torch.cat([self.model.encode_text(rows).float() for rows in ids.flatten(0, 1).split(256)])
        means = F.normalize(each, dim=-1).unflatten(0, ids.shape[:2]).mean(1)
        self.embedded = F.normalize(means, dim=-1)

    def validation_step(self, batch: tuple[Tensor, Tensor], _) -> None:
        """Share of images whose class is nearest, and among the k nearest."""
        pixels, places = batch
        image = F.normalize(self.model.encode_image(pixels).float(), dim=-1)
        k = min(self.recipe.eval.k, len(self.embedded))
        hits = (image @ self.embedded.T).topk(k).indices == places[:, None]
        metrics = {"val/top1": hits[:, 0].float().mean(), "val/recall_at_k": hits.any(1).float().mean()}
        self.log_dict(metrics, batch_size=len(places), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """AdamW on what is trained, with warm-up and cosine decay."""
        optim = self.recipe.optim
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=optim.lr, weight_decay=optim.weight_decay, betas=(0.9, 0.98))
        return warmup_cosine(optimizer, optim.warmup_ratio, self.steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keeps the checkpoint at the size of what is trained, and of what changes with it."""
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        # peft adds an attention's adapter to these weights and takes it off again in every pass, which rounds them.
        for name, module in self.named_modules():
            if isinstance(module, MultiheadAttention):
                kept |= {f"{name}.base_layer.{weight}" for weight in ("in_proj_weight", "out_proj.base_layer.weight")}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}
