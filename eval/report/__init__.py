"""The report page, and reading of results files, without torch; may import calibration and metrics."""
