"""The report of a sweep: material (what is shown) -> pivot (tables), grids, page; sweeps/report writes the files."""
