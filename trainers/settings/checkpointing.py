"""Gradient checkpointing's modes: which blocks of a network are computed again in the backward pass.

The gradients are the same bits in all of them.
"""

AS_SWITCHED = "as the switch says"
OFF = "off"
EVERY = "every block"
SECOND = "every second block"
OFFLOADED = "offloaded"  # every block, and what the blocks get is on the CPU until then
BY_MEMORY = "auto"  # what costs least and fits into the free memory

CHECKPOINTING_MODES = (OFF, SECOND, EVERY, OFFLOADED)  # what costs least first
CHECKPOINTING = (AS_SWITCHED, OFF, EVERY, SECOND, OFFLOADED, BY_MEMORY)
