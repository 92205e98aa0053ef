"""Pictures of emoji as a data set, and the command that draws them; may import core, settings and reading."""
