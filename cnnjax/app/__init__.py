"""The frame of the scripts in experiments/: flags, process, image classification from flags to pictures, summary."""
