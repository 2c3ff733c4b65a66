"""`python -m saewatch`."""

from __future__ import annotations

import sys

from saewatch.cli import main

sys.exit(main())
