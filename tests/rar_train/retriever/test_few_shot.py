"""CLIP-LoRA's loss against a plain reference, where its adapters are, and that merging keeps what they compute."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import RetrieverArgs, TuningArgs
from data_prep.settings.loading import load_recipe
from rar_train.retriever.few_shot import FewShotModule
from rar_train.retriever.module import merge_adapters, prepare_model
from rar_train.retriever.views import training_transform

RECIPE = load_recipe(["recipe=retriever_clip_lora"])
ARGS = RECIPE.retriever.tuning
PROMPTS = ["a photo of a bend.", "a photo of a chevron.", "a photo of a mullet."]


def make_module(args: TuningArgs = ARGS) -> tuple[FewShotModule, torch.Tensor]:
    encoder = load_encoder(RetrieverArgs())
    recipe = replace(RECIPE, retriever=replace(RECIPE.retriever, tuning=args))
    module = FewShotModule(recipe, prepare_model(encoder.model, args), encoder.tokenize(PROMPTS), 10)
    pixels = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return module, pixels


def randomize(model: torch.nn.Module) -> None:
    """Gives the adapters weights that change the model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))


def loss_of(module: FewShotModule, pixels: torch.Tensor, classes: list[int], weights: list[float]) -> torch.Tensor:
    module.log = lambda *args, **kwargs: None
    batch = (pixels, torch.tensor(classes), torch.tensor(weights, dtype=torch.float64))
    return module.training_step(batch, 0)


def test_the_recipe_has_the_values_of_the_papers_code():
    assert (ARGS.lora_rank, ARGS.lora_alpha, ARGS.lora_dropout, ARGS.lora_layers) == (2, 1, 0.25, "qkv")
    assert (ARGS.iterations_per_shot, ARGS.crop_scale, ARGS.flip) == (500, 0.08, True)
    assert (RECIPE.optim.lr, RECIPE.optim.batch_size, RECIPE.optim.weight_decay) == (2e-4, 32, 0.01)
    assert RECIPE.optim.warmup_ratio == 0 and RECIPE.trainer.grad_clip_norm == 0


def test_the_loss_is_the_cross_entropy_over_all_names():
    module, pixels = make_module()
    randomize(module.model)
    module.eval()
    classes, weights = [2, 0, 0, 1], [0.25, 0.25, 0.5, 0.0]
    loss = loss_of(module, pixels, classes, weights)
    with torch.no_grad():
        image = module.model.encode_image(pixels).double().numpy()
        text = module.model.encode_text(module.names).double().numpy()
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    logits = math.exp(module.model.logit_scale.item()) * image @ text.T
    expected = 0.0
    for row, truth, weight in zip(logits, classes, weights, strict=True):
        expected += weight * (math.log(sum(math.exp(value) for value in row)) - row[truth])
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_adapters_of_rank_2_are_on_query_key_and_value_of_every_layer_of_both_towers():
    module, _ = make_module()
    trained = {name: value for name, value in module.model.named_parameters() if value.requires_grad}
    layers = {name.rpartition(".lora_")[0] for name in trained}
    towers = {f"visual.transformer.resblocks.{n}" for n in range(5)} | {f"transformer.resblocks.{n}" for n in range(3)}
    assert layers == {f"base_model.model.{tower}.attn.{part}" for tower in towers for part in "qkv"}
    assert all(2 in value.shape for value in trained.values()) and len(trained) == 2 * len(layers)
    adapter = module.model.base_model.model.visual.transformer.resblocks[0].attn.q
    assert adapter.scaling["default"] == pytest.approx(1 / math.sqrt(2)), "the code scales by alpha / sqrt(rank)"
    assert adapter.lora_dropout["default"].p == 0.25


def test_merging_keeps_the_output():
    base = load_encoder(RetrieverArgs()).model
    module, pixels = make_module()
    randomize(module.model)
    module.eval()
    with torch.no_grad():
        tuned = [module.model.encode_image(pixels), module.model.encode_text(module.names)]
        plain = [base.encode_image(pixels), base.encode_text(module.names)]
        merged = merge_adapters(module.model, ARGS)
        after = [merged.encode_image(pixels), merged.encode_text(module.names)]
    assert merged.state_dict().keys() == base.state_dict().keys()
    for a, b, c in zip(tuned, after, plain, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
        assert (a - c).abs().max() > 1e-2
    base.load_state_dict(merged.state_dict())  # an ordinary open_clip model
    torch.testing.assert_close(base.encode_image(pixels), after[0], atol=1e-5, rtol=1e-5)


def test_names_in_several_passes_have_the_same_gradients():
    gradients = []
    for size in (256, 2):
        module, pixels = make_module(replace(ARGS, names_per_pass=size, lora_dropout=0.0))
        randomize(module.model)
        module.train()
        torch.manual_seed(0)
        for parameter in module.parameters():  # of the same draws in both
            if parameter.requires_grad and parameter.shape[0] == 2:
                torch.nn.init.normal_(parameter, std=0.1)
        loss_of(module, pixels, [0, 1, 2, 0], [0.25] * 4).backward()
        gradients.append([p.grad for p in module.parameters() if p.requires_grad])
    for one, several in zip(*gradients, strict=True):
        torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-4)


def test_only_the_adapters_have_dropout_in_training():
    module, pixels = make_module()
    randomize(module.model)
    module.train()
    assert not any(m.training for m in module.modules() if isinstance(m, torch.nn.LayerNorm))
    first, second = (module.model.encode_image(pixels) for _ in range(2))
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module.model.encode_image(pixels), module.model.encode_image(pixels))


def test_crops_are_as_small_as_set_and_may_be_mirrored():
    encoder = load_encoder(RetrieverArgs())
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (240, 1))).convert("RGB")

    def views(args: TuningArgs) -> list[np.ndarray]:
        transform = training_transform(encoder, args)
        return [np.asarray(transform(ramp))[0] for _ in range(60)]

    torch.manual_seed(0)
    spans = {}
    for crop_scale, flip in ((0.08, True), (0.9, False)):
        made = views(replace(ARGS, crop_scale=crop_scale, flip=flip))
        mirrored = [view[0, 0] > view[0, -1] for view in made]
        assert (10 < sum(mirrored) < 50) if flip else not any(mirrored)
        spans[crop_scale] = min(abs(view[0, -1] - view[0, 0]) for view in made)
    whole = views(replace(ARGS, augment=False, flip=False))[0]
    assert spans[0.08] < 0.5 * abs(whole[0, -1] - whole[0, 0]) < spans[0.9]


def test_a_model_whose_attention_reads_past_the_adapters_is_refused():
    """A ResNet tower pools by attention, whose matrices it passes to a function as tensors."""
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}
    text = {"context_length": 32, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    ids = torch.randint(1, 500, (3, 32), generator=torch.Generator().manual_seed(0))
    module = FewShotModule(RECIPE, prepare_model(model, ARGS), ids, 10)
    module.train()
    loss_of(module, torch.randn(2, 3, 32, 32), [0, 1], [0.5, 0.5]).backward()
    with pytest.raises(UserError, match="take no part in a step"):
        module.on_after_backward()
