"""Detection with retrieved and ranked classes, and its command; may import ranking, report and below."""
