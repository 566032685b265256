"""``python -m pnp_mlpatch.cli``."""

import sys

from pnp_mlpatch.cli import main

sys.exit(main())
