"""What scores and pictures look like: tables in all their forms, grids, plots, pages.

Nodes and sweeps draw here. HTML is made by the templates beside this file. Nothing here imports ComfyUI.
"""
