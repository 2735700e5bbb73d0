import numpy as np
import pytest
import torch

from imac_torch.datasets.encode import Encode
from imac_torch.datasets.torchvision_compat import import_torchvision
from imac_torch.errors import DataError


def test_scales_the_eight_bit_range_to_minus_one_to_one() -> None:
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    encoded = Encode(dtype=torch.float64)(image)
    # 2 p / 255 - 1: one rounding each for the division, the product (exact) and the difference.
    expected = torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(1, 16, 16)
    torch.testing.assert_close(encoded, expected, rtol=0, atol=4 * torch.finfo(torch.float64).eps)
    assert encoded.min() == -1.0
    assert encoded.max() == 1.0


def test_integer_float_and_pil_images_agree() -> None:
    torchvision = import_torchvision()
    pixels = torch.arange(0, 240, 10, dtype=torch.uint8).reshape(1, 4, 6)
    pil = torchvision.transforms.functional.to_pil_image(pixels)
    expected = Encode()(pixels)
    assert torch.equal(Encode()(pil), expected)
    assert torch.equal(Encode()(pixels / 255.0), expected)


def test_binarise_is_the_sign_of_the_scaled_value() -> None:
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    expected = torch.from_numpy(np.sign(image.numpy() / 255 * 2 - 1)).float()
    assert torch.equal(Encode(binarise=True)(image), expected)


def test_binarise_at_a_threshold_and_on_the_edge() -> None:
    image = torch.tensor([[0.0, 0.5, 0.74, 0.75, 1.0]])
    assert Encode(binarise=True)(image).tolist() == [[-1.0, 1.0, 1.0, 1.0, 1.0]]
    assert Encode(binarise=True, threshold=0.5)(image).tolist() == [[-1.0, -1.0, -1.0, 1.0, 1.0]]


def test_resize_keeps_constants_and_range() -> None:
    constant = torch.full((1, 28, 28), 51, dtype=torch.uint8)
    resized = Encode(size=(20, 20))(constant)
    assert resized.shape == (1, 20, 20)
    # Interpolation weights sum to 1 up to float32 rounding of some ten additions.
    torch.testing.assert_close(resized, torch.full((1, 20, 20), -0.6), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.tensor([[0.5, float("nan")]]), "nan"),
        (torch.tensor([[-0.1, 0.5]]), r"expected \[0, 1\]"),
        (torch.tensor([[0.0, 1.5]]), r"expected \[0, 1\]"),
        (torch.tensor([[0, 256]]), r"expected \[0, 255\]"),
        (torch.empty(1, 0, 4), "without pixels"),
    ],
)
def test_refuses_images_outside_the_range(image: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Encode()(image)


@pytest.mark.parametrize(
    "arguments", [{"size": (0, 4)}, {"size": (4,)}, {"threshold": 1.0}, {"dtype": torch.uint8}]
)
def test_refuses_impossible_settings(arguments: dict) -> None:
    with pytest.raises(DataError, match=next(iter(arguments))):
        Encode(**arguments)
