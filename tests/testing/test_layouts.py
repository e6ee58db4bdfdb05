"""Each layout holds the same values and is what its name says."""

from __future__ import annotations

import pytest
import torch

from qkv.errors import ShapeError, SpecError
from qkv.testing import LAYOUTS, fits, lay_out
from qkv.testing.layouts import OFFSET, OVERSIZE_STRIDE

SHAPE = (2, 4, 5, 8)
PROPERTIES = {
    "contiguous": lambda x: x.is_contiguous(),
    "heads last": lambda x: x.transpose(1, 2).is_contiguous(),
    "feature strided": lambda x: x.stride(3) == 2,
    "stride-0 heads": lambda x: x.stride(1) == 0,
    "slice of a packed tensor": lambda x: x.stride()[1:] == (8, 3 * 4 * 8, 1),
    "storage offset": lambda x: x.storage_offset() == OFFSET and x.is_contiguous(),
    "oversize singleton stride": lambda x: x.stride(0) == OVERSIZE_STRIDE,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_strides(layout: str, dtype: torch.dtype) -> None:
    x = torch.randn(1 if layout == "oversize singleton stride" else 2, *SHAPE[1:]).to(dtype)
    y = lay_out(x, layout)
    assert y.dtype == dtype
    assert torch.equal(y, x[:, :1].expand_as(x) if layout == "stride-0 heads" else x)
    assert PROPERTIES[layout](y)
    assert layout == "contiguous" or not PROPERTIES[layout](x)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", ["feature strided", "slice of a packed tensor", "storage offset"])
def test_gaps_hold_nan(layout: str) -> None:
    y = lay_out(torch.zeros(SHAPE), layout)
    memory = torch.empty(0).set_(y.untyped_storage())
    assert int(memory.isnan().sum()) == len(memory) - y.numel() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_elements(layout: str) -> None:
    assert lay_out(torch.zeros(1, 2, 0, 8), layout).shape == (1, 2, 0, 8)


def test_fits() -> None:
    assert fits(SHAPE, "stride-0 heads")
    assert not fits((2, 1, 5, 8), "stride-0 heads")
    assert not fits(SHAPE, "oversize singleton stride")
    assert fits((2, 1, 5, 8), "oversize singleton stride")
    assert all(fits(SHAPE, layout) for layout in LAYOUTS[:6])


def test_messages() -> None:
    with pytest.raises(ShapeError, match=r"a layout needs four axes, b h i d; the tensor has 2: \(3, 4\)"):
        lay_out(torch.zeros(3, 4), "contiguous")
    with pytest.raises(SpecError, match=r'there is no layout "packed"\.\n    layouts: contiguous, heads last'):
        lay_out(torch.zeros(SHAPE), "packed")
    with pytest.raises(ShapeError, match=r"an oversize singleton stride needs an axis of size 1; the shape is \(2, 4"):
        lay_out(torch.zeros(SHAPE), "oversize singleton stride")
