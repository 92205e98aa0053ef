"""Rankings by an MLLM: requests, modes, inference, parsing; may import calibration and metrics."""
