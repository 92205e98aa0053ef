"""CLIP-LoRA's training (arXiv 2405.18541): cross-entropy over all class names, with the few-shot images of a draw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_prep.core.errors import UserError
from rar_train.retriever.module import TuningModule


class FewShotModule(TuningModule):
    """Classifies images by the classes' names, which the text tower embeds again in every step.

    The model's logit scale stays as it is. ``names`` has one prompt per class, shape ``[classes, context]``.
    """

    BETAS = (0.9, 0.999)  # AdamW's own, as in CLIP-LoRA's code

    @property
    def scale(self) -> Tensor:
        """Factor of the cosine similarities."""
        return self.model.logit_scale.exp()

    def train(self, mode: bool = True) -> FewShotModule:
        """Sets the mode; with adapters only theirs, so that dropout and batch statistics of the frozen weights are off.

        The frozen weights then compute as they do when the tuned model is used.
        """
        super().train(mode and not self.recipe.retriever.tuning.lora_rank)
        for module in self.modules():
            if isinstance(module, LoraLayer):
                for part in (*module.lora_dropout.values(), *module.lora_A.values(), *module.lora_B.values()):
                    part.train(mode)
        return self

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Makes dropout a function of seed and batch, so that a resumed run repeats it."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + batch_idx)

    def encode_names(self) -> Tensor:
        """Embeds the classes' names: unit vectors of shape ``[classes, d]``.

        Of many names the passes keep no activations, and are computed again in the backward pass.
        """
        passes = self.names.to(self.device).split(self.recipe.retriever.tuning.names_per_pass)
        if len(passes) == 1 or not torch.is_grad_enabled():
            rows = [self.model.encode_text(ids) for ids in passes]
        else:
            rows = [checkpoint(self.model.encode_text, ids, use_reentrant=False) for ids in passes]
        return F.normalize(torch.cat(rows).float(), dim=-1)

    def logits(self, pixels: Tensor, names: Tensor) -> Tensor:
        """Computes the scaled cosine similarities of images to class names, shape ``[n, classes]``."""
        return self.scale * F.normalize(self.model.encode_image(pixels).float(), dim=-1) @ names.T

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _) -> Tensor:
        """Computes the cross-entropy of pixels ``[n, 3, h, w]``, class indices ``[n]`` and weights ``[n]``.

        Raises:
            UserError: The loss is not a finite number.
        """
        pixels, classes, weights = batch
        losses = F.cross_entropy(self.logits(pixels, self.encode_names()), classes, reduction="none")
        mean = losses.detach().mean()
        if not mean.isfinite():
            raise UserError(
                f"the loss is not a finite number at step {self.trainer.global_step}. Lower "
                f"optim.lr={self.recipe.optim.lr:g}, or set trainer.precision=bf16-mixed or 32-true, with another "
                "out=FOLDER"
            )
        self.log("train/loss", mean, batch_size=len(pixels))
        return losses @ weights.to(losses.dtype)

    def on_after_backward(self) -> None:
        """Checks at the first step that every trained weight takes part.

        Raises:
            UserError: One does not: its layer's weights are read past the adapter.
        """
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        idle = [name for name, value in trained.items() if value.grad is None]
        if idle and self.recipe.retriever.tuning.lora_rank:
            raise UserError(
                f"retriever.tuning: {len(idle)} of {len(trained)} adapter weights take no part in a step, such as "
                f"{idle[0]}; this model's attention can't be adapted, tune all weights (lora_rank=0) or another model"
            )

    def on_validation_epoch_start(self) -> None:
        """Embeds the classes' names, once for all images."""
        self.name_embeddings = self.encode_names()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _) -> None:
        """Logs the share of the draw's own images, uncropped, whose class is the nearest: no held-out measure."""
        pixels, classes, _weights = batch
        hits = self.logits(pixels, self.name_embeddings).argmax(-1) == classes
        self.log("val/top1_of_draw", hits.float().mean(), batch_size=len(pixels))


def trained_parameters(model: nn.Module) -> int:
    """Counts the parameters that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
