"""What a person sees: the command line, progress, tables and reprs."""
