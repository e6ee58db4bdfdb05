"""The four parts of a spec as terms, and the expression graphs that they lower to; importing this imports no torch."""
