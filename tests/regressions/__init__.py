"""One file for each published bug of an attention library, and the test that shows that qkv does not have it.

The name says where it was reported; the docstring says what happened there.
"""
