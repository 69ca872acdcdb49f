"""What hooks hand over: which rows of it, reduced, as blocks of rows."""
