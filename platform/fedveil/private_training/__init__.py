"""Private training: a batch becomes the sum of clipped gradients of its units, by engines that agree to rounding."""
