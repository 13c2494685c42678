"""`evolvent task new` and `evolvent task check`."""
