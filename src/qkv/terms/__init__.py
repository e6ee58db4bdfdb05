"""The four parts of a spec as terms, and the expression graphs that they lower to. Nothing here imports torch when it is imported."""
