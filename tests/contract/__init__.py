"""One suite over every strategy: what is promised in numbers, held against a float64 oracle that knows nothing of
qkv's strategies.
"""
