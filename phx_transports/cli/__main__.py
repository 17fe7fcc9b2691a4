"""`python -m phx_transports.cli` is the `phx` command."""

import sys

from . import main

sys.exit(main())
