"""The report page and what is read back from results, without torch; may import calibration and metrics."""
