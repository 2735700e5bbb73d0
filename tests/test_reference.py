"""Agreement with published HSPICE results; needs IMAC_TORCH_SHARED.

Bounds are those that the project promises. What a transient simulator prints cannot be met more
closely than its five digits (5 µV at 0.5 V) and its own tolerance.
"""

from __future__ import annotations

import pytest
import torch
from golden import (
    ReferenceNetwork,
    circuit_r,
    device_config,
    device_runs,
    load,
)


def voltages(content) -> torch.Tensor:
    return torch.from_numpy(content["output_voltage"])


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


@pytest.fixture
def network(shared):
    return ReferenceNetwork.read(shared)


@torch.no_grad()
def test_circuit_f(shared, network):
    content = load(shared, "hspice_flat_0_999.npz")
    analog = network.circuit_f()
    solution = analog.solve(network.inputs[:1000])
    assert solution.converged.all()
    # Kirchhoff's law holds to rounding: currents of 1 mA in doubles.
    assert float(solution.residual.max()) < 1e-12
    hspice = voltages(content)
    difference = solution.outputs - hspice
    assert rms(difference) <= 0.05e-3
    assert float(difference.abs().max()) <= 0.3e-3
    assert (solution.outputs.argmax(1) == hspice.argmax(1)).all()
    # HSPICE integrates |v·i| of vdd over the image, its 0.1 ns ramp included.
    energy = solution.power.supply * 4e-9
    ratio = energy / torch.from_numpy(content["energy"])
    assert float((ratio - 1).abs().max()) <= 3e-3


@torch.no_grad()
def test_devices(shared, network):
    runs = device_runs(shared)
    assert len(runs) >= 10
    for entry, hspice, power in runs:
        solution = network.circuit_f(device_config(entry)).solve(network.inputs[:50])
        assert solution.converged.all(), entry
        assert rms(solution.outputs - hspice) <= 0.1e-3, entry
        assert (solution.outputs.argmax(1) == hspice.argmax(1)).all(), entry
        # The average over 0.1 to 1 ns of each image holds what charges still move after the ramp.
        ratio = solution.power.total / power
        assert float((ratio - 1).abs().max()) <= 0.02, entry


@torch.no_grad()
def test_circuit_r_is_linear(shared, network):
    hspice = voltages(load(shared, "hspice_rows_logistic_0_999.npz"))
    ours = circuit_r(network, network.inputs[:1000], "logistic")
    assert float((ours - hspice).abs().max()) <= 2e-5
    assert rms(ours - hspice) <= 2e-6
    assert (ours.argmax(1) == hspice.argmax(1)).all()


@torch.no_grad()
def test_circuit_r_with_converters(shared, network):
    hspice = voltages(load(shared, "hspice_rows_logistic_8bit_0_999.npz"))
    ours = circuit_r(network, network.inputs[:1000], "logistic", bits=8)
    # Both are multiples of 1.6 V/255 = 6.3 mV: any other step would show.
    assert float((ours - hspice).abs().max()) <= 1e-9


@torch.no_grad()
def test_circuit_r_with_transistors(shared, network):
    content = load(shared, "hspice_rows_finfet_0_999.npz")
    difference = circuit_r(network, network.inputs[:1000], "finfet") - voltages(content)
    # 500 fF on every output have not settled, except where an image starts a batch, from the
    # operating point.
    first = torch.from_numpy(content["position_in_batch"] == 0)
    assert int(first.sum()) >= 50
    assert rms(difference[first]) <= 2e-4
    assert rms(difference) <= 5e-4
