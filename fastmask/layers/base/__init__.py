"""What all layers stand on: their base class, weights, calls, symbolic tensors and configs."""
