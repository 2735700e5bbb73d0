"""Convolutions on arrays: the matrix of the circuit, applied at every position."""

from __future__ import annotations

import pytest
import torch
from small_networks import CONTINUOUS, seeded
from torch import Tensor, nn

import imac_torch as imac
from imac_torch.conversion.layers import is_layer, source_of
from imac_torch.errors import CircuitError, ConversionError
from imac_torch.model.effective import Effective
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.model.positions import positions_of
from imac_torch.model.segment import Segment
from imac_torch.periphery.activations import Activation
from imac_torch.reference.nodal import solve_layer, stamp
from imac_torch.software.leaves import Leaf

pytestmark = pytest.mark.filterwarnings("ignore")  # what conversions lose

SYMMETRIC = CONTINUOUS.replace(
    supplies=imac.Supplies(vdd=0.8, vss=-0.8), crossbar=imac.Crossbar(rows=3, columns=5)
)
SHAPES = {1: (7,), 2: (6, 5), 3: (4, 3, 5)}
KINDS = {
    "plain": lambda: nn.Conv2d(2, 3, 3),
    "strided": lambda: nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2)),
    "dilated": lambda: nn.Conv2d(2, 3, 2, dilation=(2, 1), bias=False),
    "same": lambda: nn.Conv2d(2, 3, (2, 4), padding="same"),
    "valid": lambda: nn.Conv1d(2, 3, 4, padding="valid"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(3, 6, 3, groups=3, padding=1, stride=2),
    "reflect": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"),
    "circular": lambda: nn.Conv1d(2, 3, 4, padding="same", padding_mode="circular"),
    "volume": lambda: nn.Conv3d(2, 2, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 0)),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(4, 6, (2, 3), groups=2, dilation=(1, 2)),
    "transposed line": lambda: nn.ConvTranspose1d(2, 3, 2, stride=3, padding=1, bias=False),
    "transposed volume": lambda: nn.ConvTranspose3d(2, 1, 2, stride=(2, 1, 2)),
}  # fmt: skip


def module(kind: str) -> nn.Module:
    return seeded(KINDS[kind]).double()


def inputs(layer: nn.Module, batch: int = 2) -> Tensor:
    shape = (batch, layer.in_channels, *SHAPES[len(layer.kernel_size)])
    return 2.0 * torch.rand(shape, generator=torch.Generator().manual_seed(4)).double() - 1.0


def analog(
    layer: nn.Module, config: imac.Config = SYMMETRIC, activation: str = "identity", scale=1.0
) -> Segment:
    source = source_of(Leaf("conv", layer))
    outputs, width = source.weight.shape
    made = IMACLinear(
        width, outputs, bias=source.bias is not None, activation=Activation(activation),
        config=config, name="conv", initialise=False, groups=source.positions.groups,
        scaling=Scaling(1.0, scale),
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(source.weight)
        if source.bias is not None:
            made.bias.copy_(source.bias)
    return Segment([made], config, positions=source.positions)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_those_of_the_module(kind):
    layer = module(kind)
    x = inputs(layer)
    source = source_of(Leaf("conv", layer))
    places, weight = source.positions, source.weight
    expected = layer(x)
    torch.testing.assert_close(places.through(x, weight, source.bias), expected)
    rows = places.vectors(x).unflatten(1, (places.groups, -1))
    matrices = weight.unflatten(0, (places.groups, -1))
    found = torch.einsum("rgn,gmn->rgm", rows, matrices).flatten(1)
    found = found if source.bias is None else found + source.bias
    torch.testing.assert_close(places.tensor(found, x), expected)
    # Some lines, out of order, at positions in an order of their own.
    some = torch.arange(places.inputs(x)).flip(0)[::2]
    lines = places.lines(x, some)
    assert torch.equal(places.placed(lines.T, x), places.tensor(places.vectors(x)[:, some], x))
    assert torch.equal(places.lines(x[0], some), places.lines(x[:1], some))
    assert len(rows) == len(x) * places.count(x)
    assert places.inputs(x) == rows[0].numel()
    alone = places.tensor(found[: places.count(x)], x[0])  # without a dimension of samples
    torch.testing.assert_close(alone, layer(x[0]))
    assert torch.equal(places.vectors(x[0]), places.vectors(x)[: places.count(x)])
    assert positions_of(places.record()) == places
    assert is_layer(layer, spatial=True)
    assert not is_layer(layer)


@pytest.mark.parametrize("kind", ["same", "depthwise", "transposed groups"])
@torch.no_grad()
def test_a_convolution_is_the_circuit_at_every_position(kind):
    layer = module(kind)
    x, segment = inputs(layer), analog(layer)
    fast = segment(x)
    # Position by position through the solved circuit, one vector at a time.
    rows = segment.positions.vectors(x)
    loop = torch.stack([segment.solve(row[None]).outputs[0] for row in rows])
    loop = segment.positions.tensor(segment.decode(loop), x)
    assert float((fast - loop).abs().max()) <= 1e-12
    assert float((fast - layer(x)).abs().max()) > 1e-3  # wires and the read-out are in it
    # What float32 costs: its rounding of weights, inputs and sums, 6e-8 of each.
    single = segment(x.float())
    assert single.dtype == torch.float32
    assert float((single - fast).abs().max()) <= 5e-7 * float(fast.abs().max())
    # The same circuit node by node: a dense solution of all groups together. It loses the span of
    # conductances, 1e-16·(1e3 S / 5e-6 S).
    circuit = segment.circuit().layers[0]
    lines = segment.voltages(rows[:3])
    nodes = solve_layer(circuit, lines, vdd=0.8)
    solution = segment.solve(rows[:3])
    found = nodes[:, circuit.array("z").index]
    torch.testing.assert_close(solution.layers[0].combined, found, rtol=1e-8, atol=1e-8)
    # What flows out of all pins and vdd, from the stamped matrix: the power of inputs and bias.
    pins = torch.tensor([*circuit.inputs, 1])
    nodes = torch.nan_to_num(nodes)
    currents = nodes @ stamp(circuit).dense()[:, pins]
    power = torch.cat([lines, lines.new_full((3, 1), 0.8)], dim=1) * currents
    expected = power[:, :-1].sum(1), power[:, -1]
    for one, other in zip((solution.power.inputs, solution.power.bias), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_one_position_is_what_ngspice_says(tmp_path):
    segment = analog(module("depthwise"))
    row = segment.positions.vectors(inputs(module("depthwise")))[7:8].detach()
    expected = segment.solve(row)
    with torch.no_grad():
        segment.engine = imac.Spice(imac.NgSpice())
        found = segment.solve(row)
    assert float((found.outputs - expected.outputs).abs().max()) <= 1e-9


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid"])
def test_neurons_stand_at_every_position(activation):
    layer = module("strided")
    kind = None if activation == "relu" else "logistic"
    config = SYMMETRIC.replace(neuron=imac.Neuron(kind=kind))
    x, segment = inputs(layer), analog(layer, config, activation, 0.5)
    rows = segment.positions.vectors(x)
    expected = segment.positions.tensor(segment.decode(segment.solve(rows).outputs), x)
    torch.testing.assert_close(segment(x), expected, rtol=0, atol=1e-12)
    assert segment(x[:0]).shape == (0, *expected.shape[1:])
    assert torch.equal(segment(x.half()), segment(x.half().float()).half())
    assert segment(x.round().to(torch.int8)).dtype == torch.float64
    if activation == "relu":
        assert float(expected.min()) == 0.0
        assert float(expected.max()) == 0.5  # a circuit cannot exceed its supply


def test_neurons_that_are_no_function_are_solved():
    """Transistors are, one output at a time; here a sigmoid that way and as the function it is."""
    layer = module("strided")
    segment, x = analog(layer, activation="sigmoid"), inputs(layer)
    matrix = segment.effective(x.dtype)
    combined = segment.positions.through(segment.coded(x), matrix.weight, matrix.bias)
    found = imac.Native(batch_size=7).unloaded_outputs(*matrix.neuron, combined)
    torch.testing.assert_close(segment.decode(found), segment(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bend", [None, 0.3])
def test_positions_in_pieces(bend, monkeypatch):
    """Where a segment is no matrix, memory is bounded by positions at a time."""
    config = SYMMETRIC.replace(device=imac.Memristor(bend=bend))
    if bend is None:  # a chain is solved as one circuit
        chain = imac.convert(nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2)), config)
        segment, x = chain.segment, inputs(module("transposed line")).mT[:, :6].reshape(2, 4, 3)
    else:
        layer = module("transposed line")
        segment, x = analog(layer, config), inputs(layer)[..., :2]
        assert segment.effective(x.dtype) is None
    with torch.no_grad():
        whole = segment(x)
        for positions in (1, 7):
            monkeypatch.setattr("imac_torch.model.segment.POSITIONS", positions)
            torch.testing.assert_close(segment(x), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["depthwise", "transposed groups"])
def test_gradients_of_the_matrix(kind):
    layer = module(kind)
    x = inputs(layer, batch=1).mul(0.5).requires_grad_()
    segment = analog(layer)
    (weight,) = (p for name, p in segment.named_parameters() if name.endswith("weight"))
    outputs = segment(x)
    direction = torch.linspace(-1, 1, outputs.numel()).double().reshape(outputs.shape)
    grads = torch.autograd.grad((outputs * direction).sum(), [x, weight])
    # The same sum through the solved circuit, vector by vector.
    rows = segment.positions.vectors(x)
    solved = segment.decode(segment.solve(rows).outputs)
    slow = (segment.positions.tensor(solved, x) * direction).sum()
    for one, other in zip(grads, torch.autograd.grad(slow, [x, weight]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        step = 1e-4 * torch.ones_like(x)
        change = ((segment(x + step) - segment(x - step)) * direction).sum() / 2
    torch.testing.assert_close((grads[0] * step).sum(), change, rtol=1e-8, atol=0)


def test_training_sees_the_ideal_circuit_of_groups():
    config = SYMMETRIC.replace(
        interconnect=imac.Interconnect(resistance=False), crossbar=imac.Crossbar()
    )
    layer = module("grouped")
    segment, x = analog(layer, config), inputs(layer)
    ideal = segment.first(segment.positions.vectors(x))
    torch.testing.assert_close(segment.positions.tensor(ideal, x), segment(x), rtol=0, atol=1e-9)


def test_changed_weights_are_seen():
    layer = module("same")
    segment, x = analog(layer), inputs(layer)
    with torch.no_grad():
        before = segment(x)
        assert segment.effective(x.dtype) is segment.effective(x.dtype)
        segment.first.weight.mul_(0.5)
        assert not torch.equal(segment(x), before)


@torch.no_grad()
def test_programming_shows_its_progress_and_is_done_once(capsys, monkeypatch):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm = nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2)
            self.two = nn.Conv1d(2, 1, 2)

        def forward(self, x):
            return x[..., 2:] + self.two(torch.abs(self.norm(self.one(x))))

    model, x = seeded(Two).float().eval(), torch.rand(2, 1, 5)
    network = imac.convert(model, SYMMETRIC, samples=x, progress=True)
    assert "programming" in capsys.readouterr().err
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    monkeypatch.setattr(Effective, "of", None)  # whoever programs again fails
    network(x)


def test_what_does_not_fit_is_refused():
    layer = module("plain")
    segment = analog(layer)
    for wrong, message in (
        (torch.zeros(2, 3, 5, 5), r"takes 18 inputs .* gives 27"),
        (torch.zeros(2, 2, 2, 5), "does not fit"),
        (torch.zeros(5, 5), r"takes \(B, C, …\)"),
        (torch.full((2, 5, 5), 2.0), "full scale"),
    ):
        with pytest.raises(CircuitError, match=message):
            segment(wrong.double())
    grouped = analog(module("grouped"))
    with pytest.raises(ConversionError, match="2 groups, its positions 1"):
        Segment(list(grouped.analog_layers()), SYMMETRIC)
    with pytest.raises(ConversionError, match="begins a segment"):
        first = IMACLinear(3, 18, config=SYMMETRIC)
        Segment([first, *grouped.analog_layers()], SYMMETRIC)
    with pytest.raises(ConversionError, match="not 4 equal groups"):
        IMACLinear(3, 6, groups=4)

    class Own(nn.Conv2d):
        def _conv_forward(self, *arguments):
            return 2 * super()._conv_forward(*arguments)

    assert not is_layer(Own(1, 1, 1), spatial=True)
