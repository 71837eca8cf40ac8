/* Inside of capture.c: filters as tcpdump writes them (pcap-filter(7)). */
#ifndef DEVICES_HOST_CAPTURE_FILTER_H
#define DEVICES_HOST_CAPTURE_FILTER_H

#include "vmm/error.h"
#include "vmm/util.h"

struct capture_filter;

/* Main, stage 2. */
int capture_filter_compile(struct capture_filter **ret, const char *text,
	struct error *err) NEEDS_CHECK;
/* Any thread; NULL passes everything. */
bool capture_filter_passes(const struct capture_filter *f, const void *frame, size_t len);
/* Takes NULL. */
void capture_filter_free(struct capture_filter *f);

#endif
