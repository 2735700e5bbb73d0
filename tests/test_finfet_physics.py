"""What any transistor model has to satisfy, whatever its parameters."""

from __future__ import annotations

import math

import pytest
import torch

from imac_torch.finfet import FinFET, ModelCard, builtin_14nm_hp, inverter_currents
from imac_torch.finfet.numerics import limited_exp, screening, smooth_positive, softplus
from imac_torch.finfet.potential import inversion_charge

N_CARD, P_CARD = builtin_14nm_hp()
# Junctions, overlap tunnelling and bias-dependent resistances and capacitances, which the
# PTM-MG cards leave off: tests of their structure use this card.
EVERYTHING = {
    **N_CARD.parameters,
    "asej": 1e-14, "adej": 2e-14, "psej": 1e-7, "pdej": 2e-7, "jss": 1e-2, "jswgs": 1e-8,
    "dlcigs": 2e-9, "dlcigd": 1e-9, "rsw": 80.0, "rdw": 40.0, "prwgs": 0.3, "aigen": 1e6,
    "cgsl": 1e-10, "cgbl": 1e-10, "cgbo": 1e-10, "cgbn": 1e-10, "cdsp": 1e-17, "aseo": 1e-14,
    "adeo": 1e-14, "csdesw": 1e-10, "pseo": 1e-6, "ud": 0.1, "ucs": 1.0, "deltavsat": 0.3,
    "ptwg": 0.5, "pclmg": 0.1, "cjswgs": 1e-10, "tmexp": 1e-4, "tmask": 5e-9,
}  # fmt: skip
FULL_CARD = ModelCard("full", "n", "105.03", EVERYTHING)
DEVICES = {
    "n": FinFET(N_CARD, nfin=10),
    "p": FinFET(P_CARD, nfin=10),
    "n107": FinFET(N_CARD, version="107"),
    "full": FinFET(FULL_CARD, nfin=3),
}


@pytest.fixture(params=sorted(DEVICES))
def device(request):
    return DEVICES[request.param]


def random_bias(generator, count, span=1.5):
    return span * (2.0 * torch.rand(4, count, generator=generator, dtype=torch.float64) - 1.0)


def test_kirchhoff_and_charge_conservation(device, generator):
    bias = random_bias(generator, 500)
    for parts in (device.currents(*bias), device.charges(*bias)):
        values = torch.stack(list(vars(parts).values()))
        # a sum of at most a dozen rounded terms
        assert bool((values.sum(0).abs() <= 1e-14 * values.abs().sum(0)).all())


def test_no_current_in_equilibrium(device, generator):
    gate = random_bias(generator, 50)[0]
    i = device.currents(0.3, gate, 0.3, 0.3)
    assert bool((i.drain.abs() + i.source.abs() <= 2.1 * i.gate.abs() + 1e-25).all())
    at_rest = device.currents(0.3, 0.3, 0.3, 0.3)
    # with all terminals at one voltage nothing may flow
    assert max(abs(v.item()) for v in vars(at_rest).values()) <= 1e-24


@pytest.mark.parametrize("name", ["n", "p", "n107"])
def test_source_and_drain_are_interchangeable(name, generator):
    """The cards have equal source and drain, so exchanging the terminals exchanges the results."""
    device = DEVICES[name]
    d, g, s, b = random_bias(generator, 500)
    forward, swapped = device.currents(d, g, s, b), device.currents(s, g, d, b)
    # the internal nodes are solved to 1e-12 V, of a current that changes e-fold in 25 mV
    close = {"rtol": 1e-9, "atol": 1e-24}
    torch.testing.assert_close(forward.drain, swapped.source, **close)
    torch.testing.assert_close(forward.source, swapped.drain, **close)
    torch.testing.assert_close(forward.gate, swapped.gate, **close)
    a, c = device.capacitances(d, g, s, b), device.capacitances(s, g, d, b)
    order = [2, 1, 0, 3]
    exchanged = c[:, order][:, :, order]
    torch.testing.assert_close(a, exchanged, rtol=1e-6, atol=1e-6 * a.abs().max().item())


@pytest.mark.parametrize("name", ["n", "p", "full"])
def test_gradients_of_the_voltages(name, generator):
    device, sign = DEVICES[name], -1.0 if name == "p" else 1.0
    d, g, s, b = random_bias(generator, 3, 0.5)
    bias = [
        sign * (v + shift) for v, shift in zip((d, g, s, b), (0.4, 0.3, 0.0, -0.2), strict=True)
    ]

    def scaled(*terminals):
        i, q = device.currents(*terminals), device.charges(*terminals)
        # brought to the order of one, for gradcheck's absolute tolerance
        return (*(1e6 * v for v in vars(i).values()), *(1e17 * v for v in vars(q).values()))

    inputs = [v.requires_grad_() for v in bias]
    # Along a random direction of inputs and outputs: a wrong derivative of any one shows. All is
    # made of torch's own functions, which know what to do without a gradient.
    assert torch.autograd.gradcheck(
        scaled, inputs, eps=1e-6, atol=1e-4, rtol=1e-5, fast_mode=True,
        check_undefined_grad=False,
    )  # fmt: skip


PARAMETERS = (
    "u0", "phig", "vsat", "rhoc", "eta0", "tfin", "eot", "nbody", "aigc", "bigbinv", "vasat",
    "hfin", "cit", "toxp",
)  # fmt: skip


def test_gradients_of_parameters(generator):
    """All in one batch: row k is a device of which only parameter k is another."""
    d, g, s, b = random_bias(generator, 6, 0.4)

    def scaled(factors):
        rows = torch.where(torch.eye(len(PARAMETERS), dtype=torch.bool), factors[:, None], 1.0)
        overrides = {
            name: N_CARD.parameters[name] * row[:, None]
            for name, row in zip(PARAMETERS, rows.T, strict=True)
        }
        device = FinFET(N_CARD, nfin=10, overrides=overrides)
        i, q = device.currents(d + 0.4, g + 0.5, s, b), device.charges(d + 0.4, g + 0.5, s, b)
        return torch.stack([
            1e4 * i.drain, 1e9 * i.gate, 1e16 * i.bulk, 1e16 * q.gate, 1e16 * q.drain,
        ])  # fmt: skip

    step = 1e-6
    ones = torch.ones(len(PARAMETERS), dtype=torch.float64)
    with torch.no_grad():
        change = (scaled(ones + step) - scaled(ones - step)) / (2 * step)  # (5, parameters, 6)
    assert bool((change.abs().amax(-1) > 1e-5).any(0).all())  # each of them matters
    # Six points are one number each: weights at random, so that none hides behind another.
    weights = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    factors = ones.requires_grad_()
    outputs = scaled(factors) @ weights
    for found, expected in zip(outputs, change @ weights, strict=True):
        (slope,) = torch.autograd.grad(found.sum(), factors, retain_graph=True)
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_temperature_length_and_fins():
    def scaled(temperature, length, nfin):
        device = FinFET(P_CARD, temperature=300.0 * temperature, length=20e-9 * length, nfin=nfin)
        i = device.currents(-0.7, -0.6)
        return 1e4 * i.drain, 1e12 * i.gate

    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, 1.0, 4.0)]
    assert torch.autograd.gradcheck(
        scaled, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, check_undefined_grad=False
    )


def test_capacitance_is_the_derivative_of_charge(device, generator):
    bias = random_bias(generator, 40, 0.8)
    c = device.capacitances(*bias)
    h = 1e-4
    for j in range(4):
        shift = torch.zeros(4, 1, dtype=torch.float64)
        shift[j] = h
        up, down = device.charges(*(bias + shift)), device.charges(*(bias - shift))
        for i, (a, b) in enumerate(zip(vars(up).values(), vars(down).values(), strict=True)):
            # central difference: h²·Q'''/6, of charges that vary over nkT/q = 30 mV, is 2e-6·C
            expected = (a - b) / (2.0 * h)
            torch.testing.assert_close(
                c[:, i, j], expected, rtol=1e-4, atol=1e-4 * c.abs().max().item()
            )
    # charge is conserved, and depends on differences of voltages only
    size = c.abs().max().item()
    assert c.sum(-1).abs().max().item() < 1e-12 * size
    assert c.sum(-2).abs().max().item() < 1e-12 * size


def test_subthreshold_is_exponential_and_monotonic():
    gate = torch.linspace(-0.3, 0.3, 2001, dtype=torch.float64)
    for device, sign in ((DEVICES["n"], 1.0), (DEVICES["p"], -1.0)):
        current = sign * device.currents(sign * 0.05, sign * gate).drain
        rise = current.diff()
        # down to 1e-19 A, above the gate current
        assert bool((rise[current[:-1] > 1e-15] > 0.0).all())
        slope = 0.3e-3 / current.log10().diff()
        middle = slope[(gate[:-1] > 0.0) & (gate[:-1] < 0.1)]
        # between kT/q·ln 10 (59.2 mV) and the stated 75.6 mV with drain-induced coupling
        assert 59.2e-3 < middle.min().item() <= middle.max().item() < 78e-3
        # no noise: the slope itself changes smoothly
        assert slope[(gate[:-1] > -0.05) & (gate[:-1] < 0.2)].diff().abs().max().item() < 1e-4


def test_output_characteristic_is_monotonic_and_smooth():
    drain = torch.linspace(-0.8, 0.8, 4001, dtype=torch.float64)
    current = DEVICES["n"].currents(drain, 0.6, 0.0, 0.0).drain
    conductance = current.diff() / drain.diff()
    assert bool((conductance > 0.0).all())
    # one derivative is continuous everywhere, also at zero volts
    assert conductance.diff().abs().max().item() < 0.01 * conductance.max().item()


def test_kirchhoff_at_the_internal_nodes(device, generator):
    d, g, s, b = random_bias(generator, 300)
    nodes = device.internal_nodes(d, g, s, b)
    assert bool(nodes.converged.all())
    if device is DEVICES["full"]:
        return  # its resistances depend on bias
    i = device.currents(d, g, s, b)
    # the solution is one step beyond a residual of 1e-12 V
    drop = device.drain_resistance * i.drain
    torch.testing.assert_close(d - nodes.drain, drop, rtol=1e-9, atol=1e-12)
    drop = device.source_resistance * i.source
    torch.testing.assert_close(s - nodes.source, drop, rtol=1e-9, atol=1e-12)


def test_far_outside_everything_is_finite(device, generator):
    bias = random_bias(generator, 1000, 10.0).requires_grad_()
    assert bool(device.internal_nodes(*bias).converged.all())
    for parts in (device.currents(*bias), device.charges(*bias)):
        for value in vars(parts).values():
            (gradient,) = torch.autograd.grad(value.sum(), bias, retain_graph=True)
            assert bool(value.isfinite().all() & gradient.isfinite().all())


def test_not_a_number_stays_with_its_element():
    gate = torch.tensor([0.5, float("nan"), 0.5], dtype=torch.float64)
    i = DEVICES["n"].currents(0.5, gate)
    assert i.drain.isfinite().tolist() == [True, False, True]
    assert i.drain[0] == i.drain[2]


def test_broadcasting_chunks_and_batches_agree_with_loops(generator):
    device = DEVICES["n"]
    drain, gate = random_bias(generator, 20000)[:2]  # more than one chunk
    whole = device.currents(drain, gate).drain
    pieces = torch.cat([device.currents(d, g).drain for d, g in zip(
        drain.split(7001), gate.split(7001), strict=True)])  # fmt: skip
    # pieces converge together but stop separately: 1e-12 V apart at most
    torch.testing.assert_close(whole, pieces, rtol=1e-9, atol=1e-20)
    table = device.currents(drain[None, :5], gate[:7, None])
    assert table.drain.shape == (7, 5)
    torch.testing.assert_close(
        table.drain[3, 2], device.currents(drain[2], gate[3]).drain, rtol=1e-9, atol=1e-20
    )
    values = torch.tensor([0.04, 0.052, 0.06], dtype=torch.float64)[:, None]
    many = FinFET(N_CARD, overrides={"u0": values}).currents(drain[:9], gate[:9])
    assert many.drain.shape == (3, 9)
    for row, value in zip(many.drain, values[:, 0], strict=True):
        one = FinFET(N_CARD, overrides={"u0": value}).currents(drain[:9], gate[:9])
        torch.testing.assert_close(row, one.drain, rtol=1e-9, atol=1e-20)


def test_gradient_mode_does_not_change_values(generator):
    bias = random_bias(generator, 200)
    plain = DEVICES["n"].currents(*bias).drain
    recorded = DEVICES["n"].currents(*bias.clone().requires_grad_()).drain
    torch.testing.assert_close(plain, recorded.detach(), rtol=1e-9, atol=1e-22)


def test_fins_and_fingers_scale():
    one, ten = FinFET(N_CARD), DEVICES["n"]
    a, b = one.currents(0.6, 0.7), ten.currents(0.6, 0.7)
    # without end terms in the card every fin is alike
    torch.testing.assert_close(10.0 * a.drain, b.drain, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(one.source_resistance, 10.0 * ten.source_resistance)


def test_hot_devices_leak_more():
    off = [FinFET(N_CARD, temperature=t).currents(0.8, 0.0).drain.item() for t in (250, 300, 350)]
    assert off[0] < off[1] < off[2]


def test_version_107_with_the_temperature_terms_written_into_the_card():
    """105.03 at 25 °C equals 107 at its own nominal temperature with the five differences undone.

    CLM (the two have different formulas) and tunnelling are switched off; what remains are the
    1e-6 limiters of 107's temperature terms.
    """
    base = {**N_CARD.parameters, "pclm": 0.0, "igcmod": 0, "igbmod": 0}
    old = FinFET(ModelCard("old", "n", "105.03", base))
    dt = 25.0 - base["tnom"]
    ratio = 298.15 / (base["tnom"] + 273.15)
    new = {
        **base,
        "tnom": 25.0,
        "u0": base["u0"] * (1.0 - 1.5e-3 * dt),
        "ua": 0.3 * (1.0 + 1.032e-3 * dt),
        "vsat": base["vsat"] * (1.0 + 1.56e-3 * dt),
        "cit": base["cit"] / ratio,
        "rgeoa": 1.0 + 1e-3 * dt,
    }
    width = (2 * base["hfin"] + base["tfin"]) * 1e6
    bare = FinFET(ModelCard("bare", "n", "107", new))
    extension = (old.source_resistance - bare.source_resistance).item()
    assert extension > 0.0
    new |= {"rswmin": extension * width, "rdwmin": extension * width}
    written = FinFET(ModelCard("new", "n", "107", new))
    gate = torch.linspace(0.0, 0.9, 19, dtype=torch.float64)[:, None]
    drain = torch.linspace(0.0, 0.9, 10, dtype=torch.float64)
    torch.testing.assert_close(
        written.currents(drain, gate).drain, old.currents(drain, gate).drain, rtol=1e-5, atol=1e-14
    )


def test_versions_differ():
    a, b = FinFET(N_CARD), FinFET(N_CARD, version="107")
    assert a.version == "105.03"
    assert abs(b.currents(0.8, 0.8).drain.item() / a.currents(0.8, 0.8).drain.item() - 1) > 0.01


def test_junctions_conduct_and_block():
    area = 1e-12
    junctions = {"asej": area, "adej": area, "tnom": 25.0}
    leak = FinFET(ModelCard("j", "n", "105.03", {**N_CARD.parameters, **junctions}))
    # At TNOM the saturation current is the card's density times the area, of two junctions.
    saturation = 2.0 * N_CARD.parameters["jss"] * area
    vt = 8.617087e-5 * 298.15
    for v in (-0.3, -0.05, 0.05, 0.3):  # beyond, the series resistance shows
        # the gate follows the bulk, so that nothing tunnels between them
        bulk = leak.currents(0.0, v, 0.0, v).bulk.item()
        assert bulk == pytest.approx(saturation * math.expm1(v / vt), rel=1e-4)
    c = leak.capacitances(0.0, 0.0, 0.0, 0.0)
    # at zero bias the plates' capacitance is the card's
    assert -c[3, 2].item() == pytest.approx(5e-4 * area, rel=1e-4, abs=0)


def test_inverter_balances():
    n, p = DEVICES["n"], DEVICES["p"]
    gate = torch.linspace(-0.4, 1.2, 33, dtype=torch.float64)[:, None]
    out = torch.linspace(0.0, 0.8, 9, dtype=torch.float64)
    current, into_gate, supply = inverter_currents(n, p, gate, out, 0.8)
    assert current.shape == into_gate.shape == supply.shape == (33, 9)
    low = n.currents(out, gate)
    ground = low.source + low.bulk
    total = supply + into_gate + ground - current
    scale = supply.abs() + into_gate.abs() + ground.abs() + current.abs()
    assert bool((total.abs() <= 1e-14 * scale).all())
    # a rising gate pulls the output down, as long as it does not conduct itself
    inside = (gate[1:, 0] <= 0.9) & (gate[:-1, 0] >= -0.1)
    assert bool((current.diff(dim=0)[inside] < 0.0).all())
    # threshold and gain at the threshold as published: 0.391 V and 10
    middle = torch.tensor(0.391, dtype=torch.float64, requires_grad=True)
    level = torch.tensor(0.391, dtype=torch.float64, requires_grad=True)
    i = inverter_currents(n, p, middle, level, 0.8)[0]
    di_dg, di_do = torch.autograd.grad(i, (middle, level))
    assert abs(i / (di_dg + di_do)).item() < 0.5e-3
    assert (di_dg / di_do).item() == pytest.approx(10.0, abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices_of_tensors():
    gate = torch.linspace(-0.5, 1.2, 200, dtype=torch.float64)
    for name in ("n", "full"):
        on_gpu = DEVICES[name].currents(0.5, gate.cuda())
        assert on_gpu.drain.is_cuda
        torch.testing.assert_close(
            on_gpu.drain.cpu(), DEVICES[name].currents(0.5, gate).drain, rtol=1e-9, atol=1e-20
        )


def test_surface_potential_solves_the_equation_of_the_manual():
    """β recovered from the charge satisfies eq. 3.238, written as the manual has it."""
    r1 = torch.tensor(0.457, dtype=torch.float64)
    s0 = torch.tensor(0.3, dtype=torch.float64)
    drive = torch.linspace(-30.0, 150.0, 400, dtype=torch.float64)
    charge = inversion_charge(drive, r1, s0)
    total = charge + s0  # S of eq. 3.234
    low, high = torch.full_like(drive, 1e-25), torch.full_like(drive, 0.5 * math.pi)
    for _ in range(200):  # bisection on S(β), which rises with β
        beta = 0.5 * (low + high)
        log_cos = beta.cos().log()
        value = beta**2 * (s0.exp() / beta.cos() ** 2 - 1.0) + s0 * s0 - 2.0 * s0 * log_cos
        below = value < total * total
        low, high = torch.where(below, beta, low), torch.where(below, high, beta)
    left = beta.log() - beta.cos().log() + r1 * total
    # β → π/2 − δ loses digits of cos β, and β ~ 1e-8 those of S − s₀: 1e-6 of F around 20
    good = (charge > 1e-6) & (beta.cos() > 1e-5)
    assert int(good.sum()) > 300
    torch.testing.assert_close(left[good], (drive + r1 * s0)[good], rtol=1e-6, atol=1e-6)


def test_elementary_functions():
    x = torch.linspace(-300.0, 300.0, 6001, dtype=torch.float64)
    assert bool(limited_exp(x).isfinite().all())
    inside = x.abs() < 80.0
    torch.testing.assert_close(limited_exp(x)[inside], x[inside].exp())
    torch.testing.assert_close(limited_exp(x, 0.0)[x > 0.0], 1.0 + x[x > 0.0])
    y = x / 30.0
    reference = 0.5 * (y + (y * y + 4e-6).sqrt())
    torch.testing.assert_close(smooth_positive(y, 1e-3), reference, rtol=1e-9, atol=1e-9)
    assert bool((smooth_positive(x, 1e-3) > 0.0).all())
    torch.testing.assert_close(softplus(y), y.exp().log1p(), rtol=1e-14, atol=0.0)
    z = x[x > 0.0] / 10.0
    torch.testing.assert_close(screening(z), 0.5 / (z.cosh() - 1.0), rtol=1e-9, atol=0.0)
