"""Files for the engine, tried in the engine itself."""
