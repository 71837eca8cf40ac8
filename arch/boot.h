/*
 * What loading a guest has in common on all CPUs: from the machine's own structures to the
 * description that firmware/ works on, and the files that the user named. For arch_boot_load() of
 * each CPU. Main thread.
 */
#ifndef ARCH_BOOT_H
#define ARCH_BOOT_H

#include "firmware/loader.h"
#include "vmm/arch.h"
#include "vmm/image.h"

/*
 * RAM, devices, command line, and PCI where messages can be delivered: without, it is deaf.
 */
void arch_boot_describe(struct fw_machine *ret, const struct arch_boot_config *config);

struct arch_boot_files {
	struct image images[2];
	struct fw_image kernel, initramfs;
	bool has_initramfs;
};

/* Drop them also when this fails. */
int arch_boot_read(struct arch_boot_files *ret, const struct arch_boot_config *config, struct error *err) NEEDS_CHECK;
/* Takes a zeroed one. */
void arch_boot_drop(struct arch_boot_files *files);

#endif
