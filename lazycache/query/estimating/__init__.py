"""What a question costs before it is asked."""
