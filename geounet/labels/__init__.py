"""Labels on the grid of a scene: class rasters, colour-coded pictures, vectors; for training and for evaluation."""
