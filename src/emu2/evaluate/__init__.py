"""What a model can do, measured: figures with intervals, pictures read back, and the paper in miniature."""
