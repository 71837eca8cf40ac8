/*
 * The options that belong to the machine itself, and the list of all of them. Options of a device
 * stand in the device's own file and come here through device_types[].
 *
 * Names in JSON are those of the Cloud Hypervisor configuration where it has them (cpus, memory,
 * payload).
 */
#ifndef VMM_OPTIONS_TABLE_H
#define VMM_OPTIONS_TABLE_H

#include "vmm/device.h"
#include "vmm/options.h"

/* --cpus */
struct options_cpus {
	uint32_t boot;
	uint32_t max;            /* 0: as boot */
	char *topology;          /* "threads:cores:dies:packages", NULL; see options_cpus_topology() */
	bool nested;
	bool pmu;
	uint32_t max_phys_bits;  /* 0: what the host has */
};

enum options_auto { OPTIONS_AUTO, OPTIONS_ON, OPTIONS_OFF };

/* --memory */
struct options_memory {
	uint64_t size;           /* bytes */
	uint32_t shared;         /* enum options_auto */
	bool hugepages;
	uint64_t hugepage_size;  /* bytes; 0: the host's default */
	bool prefault, thp, mergeable;
};

/*
 * --on-reset, --kernel-decompress, --seccomp, --sandbox, --isolation: options_get() gives a struct
 * options_choice.
 */
enum options_on_reset { ON_RESET_REBOOT, ON_RESET_EXIT };
enum options_decompress { DECOMPRESS_HOST, DECOMPRESS_GUEST };
/* --sandbox: enum sandbox_confine_how (vmm/sandbox.h). */
enum options_isolation { ISOLATION_THREAD, ISOLATION_PROCESS };
enum options_seccomp { SECCOMP_TRUE, SECCOMP_FALSE, SECCOMP_LOG };
struct options_choice {
	uint32_t value;
};

/* --kernel, --initramfs, --cmdline, --log-file, --config: use options_string(). */
struct options_text {
	char *value;
};

enum { OPTIONS_TABLE_MAX = 64 };

/*
 * All groups: the machine's, and those of `types` (device_types, a NULL or a row without name ends
 * it; a group that two types share is listed once), NULL-terminated in `ret` that has room for
 * `max` pointers. -ENOSPC when it has not.
 */
int options_table_collect(const struct option_group **ret, size_t max,
	const struct device_type *const *types) NEEDS_CHECK;

struct options_topology {
	uint32_t threads, cores, dies, packages;
};
/*
 * All 0 when none was asked for. Its product must be the number of vCPUs, those that can be added
 * included.
 */
int options_cpus_topology(struct options_topology *ret, const struct options_cpus *cpus,
	struct error *err) NEEDS_CHECK;

#endif
