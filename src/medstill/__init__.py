"""medstill distils a large segmentation network into a tiny one that runs on a laptop CPU."""
