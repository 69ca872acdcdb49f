"""What things look like: text, HTML and SVG that is made from values already at hand. Pure.

No file here reads a dataset, and nothing here needs more than the standard library and numpy.
Reprs of notebooks, pictures and the explorer share it, so that a token, a colour or a histogram
looks the same everywhere.
"""
