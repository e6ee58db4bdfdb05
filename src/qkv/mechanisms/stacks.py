"""What attention of known models is."""

STACKS = ()
