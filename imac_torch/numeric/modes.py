"""What torch's modes (inference, gradients) may do to tensors that outlive them, and what not.

A tensor made under ``torch.inference_mode`` can never take part in a differentiation afterwards.
What is remembered (tables of transistors, eliminated circuits) or becomes part of a network
(calibration) is therefore made outside of it, whatever mode the caller is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from imac_torch.errors import SolverError


@contextmanager
def lasting() -> Iterator[None]:
    """For results without gradients that may outlive the caller's modes.

    Inside, tensors are ordinary ones, also under ``torch.inference_mode``, and nothing is tracked.
    """
    # The order matters: leaving inference mode switches gradients on.
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def differentiating() -> Iterator[None]:
    """For derivatives that a computation needs itself, in whatever mode the caller is."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def ordinary() -> Iterator[None]:
    """The caller's mode of gradients, but never inference mode."""
    if torch.is_inference_mode_enabled():
        with lasting():
            yield
    else:
        yield


def refuse_transforms(tensors: Iterable[Tensor]) -> None:
    """Say that circuits are differentiated backwards.

    Forward derivatives would pass through the circuit's solution as if it were constant.

    Args:
        tensors: What a circuit is computed from.

    Raises:
        SolverError: One is dual or belongs to a transform of ``torch.func``.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    for tensor in tensors:
        if wrapped(tensor) or forward_ad.unpack_dual(tensor).tangent is not None:
            raise SolverError(
                "circuits are solved image by image and differentiated backwards, by "
                "torch.autograd (backward, grad, functional.jacobian): they know no dual numbers "
                "and none of torch.func's transforms (jvp, vjp, grad, jacrev, jacfwd, vmap). Give "
                "whole batches, and take y.backward() or torch.autograd.functional.jacobian"
            )


def leaf(tensor: Tensor) -> Tensor:
    """A detached copy to differentiate with respect to, inside :func:`differentiating`."""
    return plain(tensor).requires_grad_()


def plain(tensor: Tensor) -> Tensor:
    """A detached tensor of the same values that is not of inference mode."""
    # A view of an inference tensor is one itself: it takes a copy.
    return (tensor.clone() if tensor.is_inference() else tensor).detach()


class _Wall(torch.autograd.Function):
    """A zero that depends on tensors and refuses to say how."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
        raise SolverError(
            "circuits, transistors and matched conductances are differentiable once: this asks "
            "for a second derivative. Take differences of first derivatives (network(x ± h)), or "
            "do without create_graph=True"
        )


class _Once(torch.autograd.Function):
    """Identity, whose gradient remembers where it was taken."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
        return first_order(gradients[0], *ctx.saved_tensors)


def first_order(gradient: Tensor, *at: Tensor) -> Tensor:
    """A gradient, as a backward pass returns it, that cannot be differentiated by where it is.

    Args:
        gradient: Any shape.
        at: What the function was called with (saved by ``ctx.save_for_backward``).

    Returns:
        The same values. Under ``create_graph=True`` whoever differentiates them by what ``at``
        depends on meets a :class:`SolverError`. (By an incoming gradient they are linear, and
        that is right without help.)
    """
    if not torch.is_grad_enabled():
        return gradient
    wall: Tensor = _Wall.apply(*at)
    return gradient + wall


def once(tensor: Tensor) -> Tensor:
    """The same values, for results whose graph holds right first derivatives only.

    Implicit functions are made differentiable by one linear step with constant slopes. The
    gradient of that is exact, the gradient of the gradient is not: it is refused here.

    Args:
        tensor: Any shape.

    Returns:
        The same, in the graph if the tensor is in one. A second derivative through it raises
        :class:`SolverError` when it is taken.
    """
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    result: Tensor = _Once.apply(tensor)
    return result
