"""Ranking candidates with an MLLM: requests, modes, inference, parsing; may import calibration and metrics."""
