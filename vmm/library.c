/*
 * Loading libraries on demand, by dlopen(3): decompressors, of kernels and of disk images. Main, in
 * stage 2; again later only for what is loaded already. What such a library does is its user's
 * business (firmware/decompress.c, devices/host/qcow2_compressed.c): prototypes come from the
 * library's own header, so a call is checked like any other although nothing is linked.
 */
#include "vmm/library.h"

#include <errno.h>

int library_missing(const char *soname, const char *package, const char *what, struct error *err)
{
	return error_set(err, ELIBACC, "%s is needed to unpack %s; apt install %s", soname, what,
		package);
}

void *library_load(const char *soname, const char *package, const char *what, struct error *err)
{
	void *lib = dlopen(soname, RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		library_missing(soname, package, what, err);
	return lib;
}
