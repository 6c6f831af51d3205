"""The composition root: the only place where real things are built, and where the rooms meet."""
