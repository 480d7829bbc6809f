"""`make test-faults` sets D2KD_FAULTS=full; `make test` runs the short versions."""

import os

FULL = os.environ.get("D2KD_FAULTS") == "full"
