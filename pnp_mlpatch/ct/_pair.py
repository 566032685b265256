"""What projector pairs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pnp_mlpatch.ct.geometry import Geometry


class ProjectorPair(nn.Module, ABC):
    """The line integrals of a scan and their transpose.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    """

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry

    @abstractmethod
    def forward_project(self, x: Tensor) -> Tensor:
        """Project images.

        Parameters
        ----------
        x : Tensor, shape (B, H, W)
            Images.

        Returns
        -------
        Tensor, shape (B, angles, detectors), float32
        """

    @abstractmethod
    def back_project(self, y: Tensor) -> Tensor:
        """Apply the transpose.

        Parameters
        ----------
        y : Tensor, shape (B, angles, detectors)
            Sinograms.

        Returns
        -------
        Tensor, shape (B, H, W), float32
        """

    def normal(self, x: Tensor) -> Tensor:
        """Project images and apply the transpose.

        Parameters
        ----------
        x : Tensor, shape (B, H, W)
            Images.

        Returns
        -------
        Tensor, shape (B, H, W), float32
        """
        return self.back_project(self.forward_project(x))
