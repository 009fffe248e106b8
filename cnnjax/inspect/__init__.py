"""Look inside a model: its layer table, what its layers give, and which pixels they see."""
