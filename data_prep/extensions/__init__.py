"""Code of the user's own: ``module:function`` references and installed entry points; may import core."""
