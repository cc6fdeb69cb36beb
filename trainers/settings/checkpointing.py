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
# By the name in the widget: what it does, for the help page.
CHECKPOINTING: dict[str, str] = {
    AS_SWITCHED: "every block where the training node's switch is on",
    OFF: "nothing is computed again",
    EVERY: "every block is computed again: the least memory on the GPU but for offloaded",
    SECOND: "about half of the saving for half of the time",
    OFFLOADED: "every block, with what is kept in the computer's memory",
    BY_MEMORY: "the fastest mode that fits into the free memory",
}
