"""Calibration, fusion and open-set thresholds, fitted on validation images, without torch; may import metrics."""
