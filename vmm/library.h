/*
 * Libraries that are loaded when they are needed, so that a start that needs none pays for none,
 * and a host that lacks one can do everything else.
 *
 * A library stays loaded: a later library_load() opens no file, and so works in a sandbox.
 */
#ifndef VMM_LIBRARY_H
#define VMM_LIBRARY_H

#include <dlfcn.h>

#include "vmm/error.h"

/* A local function pointer with the type of the library's function of that name, or NULL. */
#define LIBRARY_SYMBOL(lib, name) __typeof__(&name) lib_##name = dlsym(lib, #name)

/*
 * NULL, and a sentence that names the Debian package to install and what the library is needed for:
 * `purpose` is its middle, "is needed ... ;".
 */
void *library_load(const char *soname, const char *package, const char *purpose, struct error *err);
/* The same sentence, for a library without the symbols that are needed; -ELIBACC. */
int library_missing(const char *soname, const char *package, const char *purpose, struct error *err);

#endif
