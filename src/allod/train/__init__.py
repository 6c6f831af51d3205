"""From a corpus to a signed model: stages that are pure functions of digests, each leaving a manifest."""
