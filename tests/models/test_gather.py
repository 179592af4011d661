import pytest
import torch
from torch import Tensor

from models.assigner import Assignment
from models.gather import gather


def cells(rows: list[tuple[int, int, int, int]]) -> Assignment:
    image, anchor, row, col = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T
    rest = torch.zeros(len(rows), 4)
    return Assignment(image, anchor, row, col, image, image, image, rest, rest, (len(rows),))


def raw_map(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the output of a convolution in channels-last layout, and the raw map, a view of it."""
    output = torch.randn(2, 3 * 7, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    output = output.contiguous(memory_format=torch.channels_last).requires_grad_()
    return output, output.unflatten(1, (3, 7)).permute(0, 1, 3, 4, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[(0, 1, 2, 3), (1, 2, 0, 4), (0, 1, 2, 3)], []])
def test_values_and_gradients_equal_plain_indexing(
    dtype: torch.dtype, rows: list[tuple[int, int, int, int]]
) -> None:
    assignment = cells(rows)
    found = []
    for own in (True, False):
        output, raw = raw_map(dtype)
        if own:
            objectness, positives = gather([raw], assignment)
        else:
            indices = (assignment.image, assignment.anchor, assignment.row, assignment.col)
            objectness, positives = raw[..., 4].float().flatten(), raw[indices].float()
        loss = (objectness * objectness).sum() + (positives[:, :4] ** 3).sum()
        loss.backward()
        found.append((objectness, positives, output.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert objectness.dtype == positives.dtype == torch.float32


def test_gradient_has_the_memory_layout_of_the_convolution() -> None:
    output, raw = raw_map(torch.float32)
    objectness, positives = gather([raw], cells([(0, 1, 2, 3)]))
    (objectness.sum() + positives.sum()).backward()
    assert output.grad is not None
    assert output.grad.stride() == output.stride()


def test_levels_follow_each_other() -> None:
    raw = [torch.arange(2 * 7.0).view(1, 1, 1, 2, 7), -torch.arange(7.0).view(1, 1, 1, 1, 7)]
    found = gather(raw, cells([(0, 0, 0, 1), (0, 0, 0, 0)])._replace(counts=(1, 1)))
    assert found.objectness.tolist() == [4, 11, -4]
    assert found.positives.tolist() == [raw[0][0, 0, 0, 1].tolist(), raw[1].flatten().tolist()]
