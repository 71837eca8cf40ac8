/*
 * Guest memory for a vhost-user back end: a table of up to eight regions in one message, or, where
 * the back end has slots (section "CONFIGURE_MEM_SLOTS"), one message for each region that comes or
 * goes. Memory changes while no ring runs (mem.h), so the order within a change is ours.
 */
#include "devices/virtio/vhost_user.h"

static bool same(const struct mem_region *a, const struct mem_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->fd == b->fd && a->fd_offset == b->fd_offset;
}

/* The i-th region of RAM, and NULL behind the last. */
static const struct mem_region *ram(const struct vhost_user *vu, unsigned i)
{
	const struct guest_mem *mem = vu->dev->mem;

	for (unsigned k = 0; k < mem_region_count(mem); k++)
		if (mem_region(mem, k)->kind == MEM_RAM && i-- == 0)
			return mem_region(mem, k);
	return NULL;
}

/* A region that was told and is no more; ntold: none. */
static unsigned gone(const struct vhost_user *vu)
{
	const struct mem_region *r = NULL;
	unsigned i;

	for (i = 0; i < vu->ntold; i++) {
		for (unsigned k = 0; (r = ram(vu, k)) && !same(r, &vu->told_regions[i]); k++)
			;
		if (!r)
			break;
	}
	return i;
}

static const struct mem_region *untold(const struct vhost_user *vu)
{
	const struct mem_region *r;

	for (unsigned k = 0; (r = ram(vu, k)); k++) {
		unsigned i = 0;

		while (i < vu->ntold && !same(r, &vu->told_regions[i]))
			i++;
		if (i == vu->ntold)
			return r;
	}
	return NULL;
}

bool vhost_user_memory_differs(const struct vhost_user *vu)
{
	return gone(vu) < vu->ntold || untold(vu);
}

void vhost_user_forget_memory(struct vhost_user *vu)
{
	vu->ntold = 0;
}

static bool tell_slot(struct vhost_user *vu)
{
	unsigned i = gone(vu);
	bool going = i < vu->ntold;
	struct mem_region r = going ? vu->told_regions[i] : *untold(vu);
	struct vhost_user_msg m;

	if (going)
		vu->told_regions[i] = vu->told_regions[--vu->ntold];
	else
		vu->told_regions[vu->ntold++] = r;
	vhost_user_begin(&m, going ? VHOST_USER_REM_MEM_REG : VHOST_USER_ADD_MEM_REG, sizeof(m.body.slot));
	m.body.slot.region = vhost_user_region_of(&r);
	/* Who takes a region away wants no descriptor, section "REM_MEM_REG". */
	return vhost_user_tell_sure(vu, &m, &r.fd, going ? 0 : 1);
}

bool vhost_user_tell_memory(struct vhost_user *vu)
{
	int fds[VHOST_USER_REGIONS_MAX];
	const struct mem_region *r;
	struct vhost_user_msg m;
	unsigned n = 0;

	if (vhost_user_agreed(vu, VHOST_USER_PROTOCOL_MEM_SLOTS))
		return tell_slot(vu);
	vhost_user_begin(&m, VHOST_USER_SET_MEM_TABLE, 0);
	for (; (r = ram(vu, n)); n++) {
		if (n == VHOST_USER_REGIONS_MAX) {
			vhost_user_lose(vu, "takes too few regions of memory for this guest");
			return false;
		}
		m.body.memory.region[n] = vhost_user_region_of(r);
		fds[n] = r->fd;
		vu->told_regions[n] = *r;
	}
	vu->ntold = n;
	m.body.memory.n = n;
	m.head.size = (uint32_t)(offsetof(struct vhost_user_memory, region) + n * sizeof(struct vhost_user_region));
	return vhost_user_tell_sure(vu, &m, fds, n);
}
