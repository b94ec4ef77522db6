"""Products by oneDNN: those of torch except for rounding, and only where they pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn import products
from worldrl.nn.mlp import MLP, ChoiceQ, ScalarMLP, TwinQ

pytestmark = pytest.mark.skipif(not products.available(), reason="this torch has no oneDNN")

N, I, O = 17, 6, 5  # noqa: E741


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """All products by oneDNN, however small; the list counts them."""
    counted: list[int] = []
    product = products._product

    def counting(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        counted.append(x.shape[0])
        return product(x, weight, bias)

    monkeypatch.setattr(products, "SMALLEST", 0)
    monkeypatch.setattr(products, "_product", counting)
    products.use("onednn")
    yield counted
    products.use(None)


def both(make: Callable[[], Tensor], leaves: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Value and gradients by either library."""
    for library in ("onednn", "torch"):
        products.use(library)
        value = make()
        torch.manual_seed(3)
        yield value, *torch.autograd.grad(value, leaves, torch.randn(value.shape))


def check(make: Callable[[], Tensor], leaves: list[Tensor], counted: list[int]) -> None:
    found, expected = both(make, leaves)
    assert counted
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


INPUTS = {
    "rows": lambda: torch.randn(N, I),
    "axes": lambda: torch.randn(3, 4, I),
    "transposed": lambda: torch.randn(I, N).T,
    "swapped axes": lambda: torch.randn(4, 3, I).transpose(0, 1),
    "columns of a wider matrix": lambda: torch.randn(N, 2 * I)[:, 2 : 2 + I],
    "one row, repeated": lambda: torch.randn(1, I).expand(N, I),
}
WEIGHTS = {
    "plain": lambda: torch.randn(O, I),
    "transposed": lambda: torch.randn(I, O).T,
    "columns of a wider matrix": lambda: torch.randn(O, 2 * I)[:, 2 : 2 + I],
    "rows of a transposed one": lambda: torch.randn(2 * I, O)[2 : 2 + I].T,
}


@pytest.mark.parametrize("x", INPUTS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradients_are_those_of_torch(x: str, weight: str, bias: bool, onednn: list[int]) -> None:
    leaves = [INPUTS[x]().requires_grad_(), WEIGHTS[weight]().requires_grad_()]
    if bias:
        leaves.append(torch.randn(O, requires_grad=True))
    check(lambda: products.linear(*leaves), leaves, onednn)


def test_the_strided_matrices_that_onednn_is_slow_on_are_copied_first() -> None:
    wide = torch.randn(400, 500)
    assert products._dense(wide[:, :300]).is_contiguous()
    assert products._dense(wide) is wide
    assert products._dense(wide.T).data_ptr() == wide.data_ptr()


def test_a_gru_cell_is_that_of_torch(onednn: list[int]) -> None:
    cell = nn.GRUCell(I, O)
    x, h = torch.randn(3, 4, I, requires_grad=True), torch.randn(3, 4, O, requires_grad=True)
    check(lambda: products.gru(cell, x, h), [x, h, *cell.parameters()], onednn)


@pytest.mark.parametrize("net", [MLP(I, 8, 2, O), MLP(I, (8, 7), 2, O, "relu"), ScalarMLP(I, 8, 2, "tanh")])
def test_networks_are_the_same_by_either_library(net: nn.Module, onednn: list[int]) -> None:
    x = torch.randn(3, 4, I, requires_grad=True)
    check(lambda: net(x), [x, *net.parameters()], onednn)


SHAPES = {  # of feat and action
    "one to one": ((3, 4), (3, 4)),
    "one action, many features": ((5, 3, 4), (3, 4)),
    "many actions, one feature": ((3, 4), (5, 3, 4)),
    "many of both": ((5, 1, 3, 4), (2, 3, 4)),
}


@pytest.mark.parametrize("kind", [TwinQ, ChoiceQ])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("first", [None, 1])
def test_critics_are_the_same_by_either_library(kind: type, shape: str, first: int | None, onednn: list[int]) -> None:
    critic = kind(I, 2, 8, 3, n=3)
    feat, action = (
        torch.randn(*lead, size, requires_grad=True) for lead, size in zip(SHAPES[shape], (I, 2), strict=True)
    )
    check(lambda: critic(feat, action, first=first), [feat, action, *critic.parameters()], onednn)


@pytest.mark.parametrize("kind", [TwinQ, ChoiceQ])
def test_the_first_critic_is_the_first_of_all(kind: type) -> None:
    critic = kind(I, 2, 8, 2, n=3)
    feat, action = torch.randn(7, I), torch.randn(7, 2)
    torch.testing.assert_close(critic(feat, action, first=1)[0], critic(feat, action)[0])
    assert len(critic(feat, action, first=1)) == 1


def test_small_products_other_types_and_programs_for_elsewhere_stay_with_torch(onednn: list[int]) -> None:
    assert products.by_onednn(torch.randn(8, 8), 8)
    assert not products.by_onednn(torch.randn(8, 8, dtype=torch.float64), 8)
    assert not products.by_onednn(torch.randn(8, 8, device="meta"), 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert not products.by_onednn(torch.randn(8, 8), 8)
    program = torch.export.export(MLP(I, 8, 1, O), (torch.randn(N, I),))
    assert "mkldnn" not in str(program.graph)
    products.use("torch")
    assert not products.by_onednn(torch.randn(8, 8), 8)


def test_a_row_while_acting_takes_no_detour() -> None:
    products.use("onednn")
    try:
        assert not products.by_onednn(torch.randn(1, 256), 256)
        assert products.by_onednn(torch.randn(256, 256), 256)
    finally:
        products.use(None)


def test_the_cpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, amd, library in (("AVX512", True, "onednn"), ("AVX512", False, "torch"), ("AVX2", True, "torch")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        monkeypatch.setattr(products, "_is_amd", lambda a=amd: a)
        assert products.usual() == library


def test_an_unknown_name_means_the_usual_library() -> None:
    products.use("no such")
    assert products.used() == products.usual()


def test_outputs_may_be_changed_in_place(onednn: list[int]) -> None:
    x = torch.randn(2, 3, I, requires_grad=True)
    weight = torch.randn(O, I)
    (grad,) = torch.autograd.grad(F.relu_(products.linear(x, weight)).sum(), x)
    expected = (F.linear(x, weight) > 0).float() @ weight
    torch.testing.assert_close(grad, expected)


def test_second_derivatives_are_those_of_torch(onednn: list[int]) -> None:
    net = MLP(I, 6, 2, O, "tanh")

    def penalty() -> Tensor:
        x = torch.linspace(-1, 1, N * I).reshape(N, I).requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return (slope.norm(dim=-1) - 1).square()

    check(penalty, [p for name, p in net.named_parameters() if "weight" in name], onednn)
