"""Sources: where documents come from, how each kind of file is read, and on what terms its text may be used."""
