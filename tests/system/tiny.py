#!/usr/bin/python3
"""Make a kernel of a few bytes: tiny.py crash|halt FILE. An ELF with a PVH note whose 32-bit entry does the one thing."""
import struct, sys

CODE = {
    "halt": b"\xfa\xf4\xeb\xfd",  # cli; hlt; jmp back to the hlt
    # lidt of an empty table, then ud2: no handler for the exception, none for the double fault after it
    "crash": b"\x0f\x01\x1d" + struct.pack("<I", 0x100040) + b"\x0f\x0b",
}
BASE = 0x100000

code = CODE[sys.argv[1]].ljust(0x40, b"\x90") + bytes(16)
# XEN_ELFNOTE_PHYS32_ENTRY (18): where the loader jumps in 32-bit mode.
note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", BASE)
header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE, 64, 0, 0, 64, 56, 2, 0, 0, 0)
at = 0x1000
load = struct.pack("<IIQQQQQQ", 1, 5, at, BASE, BASE, len(code), len(code), 0x1000)
notes = struct.pack("<IIQQQQQQ", 4, 4, at + len(code), 0, 0, len(note), len(note), 4)
with open(sys.argv[2], "wb") as f:
    f.write((header + load + notes).ljust(at, b"\0") + code + note)
