"""Accuracy, confidence intervals, diagnostics and published results, without torch; imports no other room of eval."""
