/* PVH: the start info that a kernel entered by its Xen PHYS32_ENTRY note finds in ebx. */
#ifndef FIRMWARE_PVH_H
#define FIRMWARE_PVH_H

#include "firmware/loader.h"

/*
 * Write hvm_start_info version 1 with module list and memory map at FW_LOW_START_INFO. The command
 * line lies at FW_LOW_CMDLINE already, the initramfs where `entry` says (length 0: none); low RAM
 * has been checked by the caller. Fills entry->arg.
 */
void pvh_write(struct fw_entry *entry, const struct fw_machine *m, uint64_t rsdp);

#endif
