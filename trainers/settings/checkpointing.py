"""Gradient checkpointing's modes: which blocks of a network are computed again in the backward pass.

The gradients are the same bits in all of them.
"""

AS_SWITCHED = "as the switch says"
OFF = "off"
EVERY = "every block"
SECOND = "every second block"
OFFLOADED = "offloaded"  # every block, and what the blocks get is on the CPU until then
AUTO = "auto"  # what costs least and fits into the free memory

MODES = (OFF, SECOND, EVERY, OFFLOADED)  # what costs least first
CHOICES = (AS_SWITCHED, OFF, EVERY, SECOND, OFFLOADED, AUTO)
