"""Device selection and multi-process execution for the data stages; may import core and settings."""
