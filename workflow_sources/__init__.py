"""What the example workflows and the sweeps' plans are made from. Users do not get this folder, and need none of it.

examples/NAME holds one example: source.py (or source.json) and layout.yaml. The other modules are what several share.
It is not called workflows: ComfyUI takes a pack's folder of that name for one of templates.
"""
