"""The optimisers of a training: AdamW, and Muon for kernels between hidden channels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pnp_mlpatch.training.config import TrainConfig

NARROW = 16  # inputs or outputs below which a tensor is no kernel between hidden channels
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan (2024)
ITERATIONS = 5
ADAM_SIZE = 0.2  # root mean square of the steps of Adam, in units of the learning rate


def is_hidden_kernel(parameter: Tensor) -> bool:
    """Whether a parameter (outputs, inputs, ...) joins hidden channels, so that Muon is for it."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) >= NARROW


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near one (0.7 to 1.2), by Newton-Schulz steps."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x, (a, b, c) = wide / wide.norm().clamp_min(1e-12), NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    r"""Momentum whose steps are made orthogonal (Jordan 2024).

    .. math::

        M &\leftarrow 0.95 M + 0.05 G, \qquad U = \mathrm{orthogonal}(0.95 M + 0.05 G) \\
        W &\leftarrow (1 - \eta \lambda) W - 0.2 \eta \sqrt{\max(n, m)}\, U

    with W the kernel as a matrix of n outputs by m inputs and taps, G its gradient, :math:`\eta`
    the learning rate and :math:`\lambda` the weight decay. The factor gives the steps the size of
    Adam's (Liu et al. 2025), so that both share a learning rate.

    Parameters
    ----------
    parameters : iterable of Tensor
        Tensors of two or more dimensions.
    lr : float
    weight_decay : float

    References
    ----------
    K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024. Liu et al., "Muon is
    scalable for LLM training", 2025, arXiv 2502.16982.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step from the gradients.

        Parameters
        ----------
        closure : None
            Not supported.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, lr: float, weight_decay: float) -> None:
        """Make one step of one kernel."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        mean = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(mean, MOMENTUM).flatten(1)
        step = orthogonal(matrix).reshape(parameter.shape)
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(step, alpha=-ADAM_SIZE * lr * math.sqrt(max(matrix.shape)))


def optimizers(config: TrainConfig, parameters: list[Tensor]) -> list[torch.optim.Optimizer]:
    """Make the optimisers: AdamW, and for "muon" one of the kernels between hidden channels."""
    kernels = [p for p in parameters if config.optimizer == "muon" and is_hidden_kernel(p)]
    taken = {id(p) for p in kernels}
    rest = [p for p in parameters if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))
    ]
    if kernels:
        found.append(Muon(kernels, config.lr, config.weight_decay))
    return found
