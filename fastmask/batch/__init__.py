"""Batches: the plan of a mask, packed values beside it, and data and targets in the forms that users give."""
