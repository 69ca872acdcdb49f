"""SQL over a dataset: its tables, with every site as a lazy column."""
