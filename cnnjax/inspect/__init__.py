"""Look inside a model: its layer table, what its layers give, and which pixels they see.

`trace` records the calls of layers in the model's program, `receptive` carries receptive fields along that program,
`table` counts and prints.
"""

from cnnjax.inspect.table import Row, Table, describe, layer_table
from cnnjax.inspect.views import Activation, Region, activations, receptive_regions

__all__ = ["Activation", "Region", "Row", "Table", "activations", "describe", "layer_table", "receptive_regions"]
