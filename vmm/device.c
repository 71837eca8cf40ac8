/*
 * What devices share. Handing out addresses and lines: first come, first served, never given back
 * while the machine lives. Loading of several objects: all or nothing.
 */
#include "vmm/device.h"

#include <errno.h>
#include <stdio.h>

#include "vmm/rate.h"

int device_take_mmio(struct device_resources *r, uint64_t len, uint64_t align, uint64_t *ret_base)
{
	uint64_t base = align_up(r->mmio_next, align);

	if (!len || base < r->mmio_next || !range_inside(base, len, r->mmio_next, r->mmio_end - r->mmio_next))
		return -ENOSPC;
	r->mmio_next = base + len;
	*ret_base = base;
	return 0;
}

int device_take_gsi(struct device_resources *r, uint32_t *ret_gsi)
{
	if (r->gsi_next >= r->gsi_end)
		return -ENOSPC;
	*ret_gsi = r->gsi_next++;
	return 0;
}

int device_rate(struct rate *ret, const struct device_env *env, const struct rate_device_options *o,
	const char *flag, struct error *err)
{
	struct rate *group = NULL;
	int r = 0;

	if (o->group && !env->rate_group)
		r = error_set(err, ENOENT, "rate_group=%s: this machine has no groups", o->group);
	else if (o->group)
		r = env->rate_group(env, o->group, &group, err);
	if (r)
		return error_prefix(err, r, "--%s", flag);
	rate_init(ret, group);
	return rate_configure(ret, &o->own, flag, err);
}

int device_main_calls(const struct device_env *env, const struct syscall_row *table, struct error *err)
{
	int r = env->main_calls && table ? env->main_calls(env, table) : 0;

	return r < 0 ? error_set(err, -r, "%s: main has too many tables of system calls", env->id) : 0;
}

int device_load_all(struct device *dev, int (*parts)(struct device *dev, struct state_reader *r, struct error *err),
	struct state_reader *r, struct error *err)
{
	struct state_writer before = { 0 };
	size_t start = r->pos;
	int ret = dev->ops->save(dev, &before);

	if (ret < 0) {
		error_set(err, -ret, "%s: its present state cannot be kept: %s", dev->id, strerror(-ret));
	} else {
		ret = parts(dev, r, err);
		if (ret < 0) {
			struct state_reader back = { .data = before.data, .len = before.len };
			struct error ignored;

			r->pos = start;
			/*
			 * It was ours a moment ago: what could be wrong with it has been said
			 * already.
			 */
			if (parts(dev, &back, &ignored) < 0 && dev->ops->reset)
				dev->ops->reset(dev);
		}
	}
	state_writer_free(&before);
	return ret;
}

/* Has a device before `end` something to say for the key of `word`? */
static bool key_taken(const struct device *list, const struct device *end, const char *word)
{
	size_t key = strcspn(word, "=") + 1;

	for (const struct device *d = list; d != end; d = d->next)
		if (d->cmdline && !strncmp(d->cmdline, word, key))
			return true;
	return false;
}

void device_cmdline(const struct device *list, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (const struct device *d = list; d; d = d->next) {
		if (!d->cmdline || key_taken(list, d, d->cmdline) || len + strlen(d->cmdline) + 2 > size)
			continue;
		len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? " " : "", d->cmdline);
	}
}
