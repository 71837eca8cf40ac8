/*
 * libpcap compiles the expression to a classic BPF program and runs it: a pure function of the
 * frame. It is loaded when a filter is asked for, before confinement, and stays loaded; nothing is
 * linked.
 * Its calls are declared here as pcap(3PCAP) has them, so that its headers are not needed to build.
 */
#include "devices/host/capture_filter.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/library.h"

enum { ETHERNET = 1 /* DLT_EN10MB */, SNAP = 256 * KIB };
#define ANY_NETMASK UINT32_MAX

struct program {                         /* struct bpf_program */
	unsigned len;
	void *code;
};

struct capture_filter {
	struct program program;
	unsigned (*run)(const void *code, const uint8_t *frame, unsigned wire_len, unsigned len);
	void (*free_code)(struct program *program);
};

static const char SONAME[] = "libpcap.so.0.8", PACKAGE[] = "libpcap0.8", PURPOSE[] = "for capture_filter";

static int compile(struct capture_filter *f, void *lib, const char *text, struct error *err)
{
	void *(*open_dead)(int, int) = dlsym(lib, "pcap_open_dead");
	int (*run_compiler)(void *, struct program *, const char *, int, uint32_t) =
		dlsym(lib, "pcap_compile");
	char *(*why)(void *) = dlsym(lib, "pcap_geterr");
	void (*close_dead)(void *) = dlsym(lib, "pcap_close");
	void *handle;
	int r = 0;

	f->run = dlsym(lib, "bpf_filter");
	f->free_code = dlsym(lib, "pcap_freecode");
	if (!open_dead || !run_compiler || !why || !close_dead || !f->run || !f->free_code)
		return library_missing(SONAME, PACKAGE, PURPOSE, err);
	handle = open_dead(ETHERNET, SNAP);
	if (!handle)
		return error_set(err, ENOMEM, "out of memory");
	if (run_compiler(handle, &f->program, text, 1, ANY_NETMASK))
		r = error_set(err, EINVAL, "capture_filter=%.80s: %.120s; write it as for tcpdump, such as "
			"\"tcp port 80\"", text, why(handle));
	close_dead(handle);
	return r;
}

int capture_filter_compile(struct capture_filter **ret, const char *text, struct error *err)
{
	void *lib = library_load(SONAME, PACKAGE, PURPOSE, err);
	struct capture_filter *f;
	int r;

	if (!lib)
		return -ELIBACC;
	f = calloc(1, sizeof(*f));
	if (!f)
		return error_set(err, ENOMEM, "out of memory");
	r = compile(f, lib, text, err);
	if (r)
		free(f);
	else
		*ret = f;
	return r;
}

bool capture_filter_passes(const struct capture_filter *f, const void *frame, size_t len)
{
	return !f || f->run(f->program.code, frame, (unsigned)len, (unsigned)len);
}

void capture_filter_free(struct capture_filter *f)
{
	if (!f)
		return;
	f->free_code(&f->program);
	free(f);
}
