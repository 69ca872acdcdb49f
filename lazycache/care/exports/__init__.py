"""Writers of `lc.export`: one module for each kind of file, over the same batches of rows."""
