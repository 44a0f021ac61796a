"""1:1 comparison: whether two faces are one person's."""
