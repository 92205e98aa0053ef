"""The emoji data set: the command that renders its images; may import core, settings and reading."""
