"""What a model is measured by: held-out text, cloze and choices, recall, and the gates it must pass."""
