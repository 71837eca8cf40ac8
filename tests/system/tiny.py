#!/usr/bin/python3
"""Make a kernel of a few bytes that does one thing: tiny.py crash|halt|reset FILE [CPU], the CPU by default this one's.

On x86_64 it is an ELF with a PVH note and a 32-bit entry, on aarch64 an Image.
"""
import platform, struct, sys



def x86_64(what):
    code = {
        "halt": b"\xfa\xf4\xeb\xfd",  # cli; hlt; jmp back to the hlt
        # lidt of an empty table, then ud2: no handler for the exception, none for the double fault after it
        "crash": b"\x0f\x01\x1d" + struct.pack("<I", 0x100040) + b"\x0f\x0b",
    }
    base = 0x100000
    code = (code | {"reset": code["crash"]})[what].ljust(0x40, b"\x90") + bytes(16)
    # XEN_ELFNOTE_PHYS32_ENTRY (18): where the loader jumps in 32-bit mode.
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", base)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    at = 0x1000
    load = struct.pack("<IIQQQQQQ", 1, 5, at, base, base, len(code), len(code), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at + len(code), 0, 0, len(note), len(note), 4)
    return (header + load + notes).ljust(at, b"\0") + code + note


def aarch64(what):
    code = {
        "halt": [0xD503207F, 0x17FFFFFF],  # wfi; b back to it
        # movz x2, #0xb00, lsl #16; ldp x0, x1, [x2]: no device there, and no syndrome that tells what was loaded
        "crash": [0xD2A16002, 0xA9400440],
        # PSCI SYSTEM_RESET: movz w0, #9; movk w0, #0x8400, lsl #16; hvc #0
        "reset": [0x52800120, 0x72B08000, 0xD4000002, 0x14000000],
    }[what]
    code = struct.pack(f"<{len(code)}I", *code)
    # Documentation/arch/arm64/booting.rst: b over the header, text_offset, image_size, flags (4 KiB pages, anywhere), magic.
    header = struct.pack("<IIQQQQQQII", 0x14000010, 0, 0, 0x1000, 0xA, 0, 0, 0, 0x644D5241, 0)
    return (header + code).ljust(0x1000, b"\0")


make = {"x86_64": x86_64, "aarch64": aarch64}[sys.argv[3] if len(sys.argv) > 3 else platform.machine()]
with open(sys.argv[2], "wb") as f:
    f.write(make(sys.argv[1]))
