"""The frame of the scripts in experiments/, and of nothing else."""
