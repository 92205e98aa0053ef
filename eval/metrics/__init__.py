"""Accuracy, intervals, diagnostics and published figures, without torch; imports no other room."""
