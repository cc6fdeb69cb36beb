"""Scores of generated pictures as the papers define them: CLIP-I, CLIP-T, DINO and DINOv2.

preprocessing -> backbones -> metrics -> scorer, under the rules of one protocol; then tables and grids of the results.
Nothing here imports ComfyUI, and nothing is downloaded.
"""
