"""The stages that run inside the seal, one module each: `run(work) -> Facts`."""
