"""What each page asks of the dataset, and its routes: one file a page."""
