"""Pictures: of denoisers, of results, panels of images."""

from pnp_mlpatch.viz._equivariance import equivariance, equivariance_error
from pnp_mlpatch.viz._figure import save
from pnp_mlpatch.viz._receptive import influence, receptive_field
from pnp_mlpatch.viz.denoiser import patch, patches_over
from pnp_mlpatch.viz.panels import curves, mass_panel, panel, table
from pnp_mlpatch.viz.report import Report, write_report
from pnp_mlpatch.viz.result import result_figure

__all__ = [
    "Report",
    "curves",
    "equivariance",
    "equivariance_error",
    "influence",
    "mass_panel",
    "panel",
    "patch",
    "patches_over",
    "receptive_field",
    "result_figure",
    "save",
    "table",
    "write_report",
]
