"""Documents on their way to tokens: cleaned, compared, held out, packed."""
