"""A thin skin: HTTP → app → HTTP. Run it with `python -m allod.web`; `allod up` does."""
