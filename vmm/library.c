/*
 * Loading libraries on demand, by dlopen(3): decompressors, of kernels and of disk images, and
 * libpcap. Main, in stage 2; again later only for what is loaded already. What such a library does
 * is its user's business (firmware/decompress.c, devices/host/qcow2_compressed.c,
 * capture_filter.c).
 */
#include "vmm/library.h"

#include <errno.h>

int library_missing(const char *soname, const char *package, const char *purpose, struct error *err)
{
	return error_set(err, ELIBACC, "%s is needed %s; apt install %s", soname, purpose, package);
}

void *library_load(const char *soname, const char *package, const char *purpose, struct error *err)
{
	void *lib = dlopen(soname, RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		library_missing(soname, package, purpose, err);
	return lib;
}
