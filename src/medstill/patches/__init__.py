"""From prepared cases to network input and back: sampling, augmentation, grids, stitching.

Nothing is imported here: `grid` and `sampling` need NumPy alone, `augment` needs torch.
"""
