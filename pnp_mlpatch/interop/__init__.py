"""Operators that come from and go to other packages: functions, scipy, deepinv, ODL, ASTRA.

``from_x`` makes a :class:`~pnp_mlpatch.operators.LinearOperator` of a foreign object, ``to_x`` a
foreign object of an operator. The foreign package is imported when its function is called. A solver
checks a foreign operator when it first uses it; see ``pnp_mlpatch.testing.check_operator``.
"""

from pnp_mlpatch.interop.astra import from_astra
from pnp_mlpatch.interop.deepinv import from_deepinv, to_deepinv
from pnp_mlpatch.interop.functions import from_functions
from pnp_mlpatch.interop.odl import from_odl, to_odl
from pnp_mlpatch.interop.scipy import from_scipy, to_scipy

__all__ = [
    "from_astra",
    "from_deepinv",
    "from_functions",
    "from_odl",
    "from_scipy",
    "to_deepinv",
    "to_odl",
    "to_scipy",
]
