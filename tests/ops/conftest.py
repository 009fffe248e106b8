"""Lets the tests of the ops import tests/oracles.py by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
