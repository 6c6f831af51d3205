"""What a model is on disk: catalogue, store, and the gate that a file passes before it is run."""
