"""A thin skin: words → app → text. Each verb is a module; what a verb does not need is not imported."""
