"""Sign, log, witness, verify: commitments, the transparency log, bundles and their proof; works alone and offline."""
