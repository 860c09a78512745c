"""The outside world's file formats, and proof that what was written loads."""
