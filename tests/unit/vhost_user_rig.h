/*
 * A machine whose disk or network device a back end in a child process serves (tests/driver/
 * vhost_user_end.h), and its driver. Memory is in memfds, two regions; the driver polls.
 */
#ifndef TESTS_UNIT_VHOST_USER_RIG_H
#define TESTS_UNIT_VHOST_USER_RIG_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/driver/vdriver.h"
#include "tests/driver/vhost_user_end.h"
#include "tests/unit/virtio_rig.h"

enum {
	VR_LOW = 2 * MIB,
	VR_HIGH_AT = 16 * MIB,       /* data lies here */
	VR_HIGH = 4 * MIB,
	VR_SIZE = 64,                /* of each ring */
	VR_DEPTH = 16,               /* requests in flight on each */
	VR_QUEUES = 5,
	VR_BLOCK = 4096,
	VR_TABLE = 4,
	VR_DISK = 8 * MIB,
	VR_PATIENCE_S = 60,          /* then something is lost for good */
};

struct vr_slot {
	uint8_t *header, *data, *status;
	uint64_t header_at, data_at, status_at;
	unsigned queue, number, version;
	bool busy, reading;
};

struct vr {
	struct rig rig;
	struct options *parsed;
	char dir[64], socket[96], disk[96], text[256];
	struct end_config end;
	pid_t pid;                   /* 0: none */
	uint8_t *low, *high;
	struct vm_events events;
	_Atomic unsigned nevents;
	unsigned nqueues;
	uint64_t features;
	struct vd_queue vd[VR_QUEUES];
	struct vr_slot slot[VR_QUEUES][VR_DEPTH];
	unsigned long answered;
};

RIG void vr_event(void *ctx, enum vm_event event, const char *what)
{
	struct vr *v = ctx;

	(void)what;
	cr_assert_eq(event, VM_EVENT_DEVICE_ERROR);
	v->nevents++;
}

RIG uint64_t vr_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

RIG void vr_nap(void)
{
	usleep(200);
}

#define VR_WAIT(condition)                                                                         \
	do {                                                                                       \
		uint64_t end_ = vr_now_ms() + VR_PATIENCE_S * 1000;                                \
		while (!(condition)) {                                                             \
			cr_assert(vr_now_ms() < end_, "never: %s", #condition);                    \
			vr_nap();                                                                  \
		}                                                                                  \
	} while (0)

/* Files and memory; nothing runs yet. */
RIG struct vr *vr_new(bool net)
{
	const struct mem_config shared = { .shared = true };
	struct vr *v = calloc(1, sizeof(*v));
	int fd;

	rig_init(&v->rig);
	v->rig.root->ops->destroy(v->rig.root);
	mem_destroy(v->rig.mem);
	cr_assert_eq(mem_create(&v->rig.mem, NULL), 0);
	cr_assert_eq(mem_add_ram(v->rig.mem, 0, VR_LOW, &shared, &v->rig.err), 0);
	cr_assert_eq(mem_add_ram(v->rig.mem, VR_HIGH_AT, VR_HIGH, &shared, &v->rig.err), 0);
	v->low = mem_region(v->rig.mem, 0)->host;
	v->high = mem_region(v->rig.mem, 1)->host;
	rig_make_root(&v->rig);
	v->events = (struct vm_events){ vr_event, v };
	v->rig.env.events = &v->events;
	v->rig.env.id = net ? "_net0" : "_disk0";
	strcpy(v->dir, "/tmp/vhost-user-XXXXXX");
	cr_assert(mkdtemp(v->dir));
	snprintf(v->socket, sizeof(v->socket), "%s/socket", v->dir);
	snprintf(v->disk, sizeof(v->disk), "%s/disk", v->dir);
	fd = open(v->disk, O_RDWR | O_CREAT, 0600);
	cr_assert(fd >= 0 && ftruncate(fd, VR_DISK) == 0);
	close(fd);
	v->end = (struct end_config){ .path = v->socket, .disk = net ? NULL : v->disk, .features = end_features(),
		.protocol = end_protocol(), .queues = VR_QUEUES, .seed = 1 };
	return v;
}

RIG void vr_end_start(struct vr *v)
{
	v->end.seed++;
	v->pid = end_start(&v->end);
}

RIG void vr_end_kill(struct vr *v)
{
	if (v->pid)
		end_kill(v->pid);
	v->pid = 0;
}

/* The device of the flag's options `text`; what create() said. */
RIG int vr_create(struct vr *v, const char *text)
{
	bool net = !v->end.disk;
	const struct option_group *const groups[] = { net ? &net_group : &blk_group, NULL };
	char *argv[] = { (char *)"test", (char *)(net ? "--net" : "--disk"), v->text, NULL };
	int r;

	snprintf(v->text, sizeof(v->text), "socket=%s%s%s", v->socket, text[0] ? "," : "", text);
	cr_assert_eq(options_create(&v->parsed, groups), 0);
	r = options_parse_argv(v->parsed, 3, argv, &v->rig.err);
	cr_assert_eq(r, 0, "%s", v->rig.err.text);
	r = (net ? &virtio_net_row : &virtio_blk_row)->create(&v->rig.dev, &v->rig.env,
		options_get(v->parsed, groups[0]->flag, 0), &v->rig.err);
	return r < 0 ? r : v->rig.root->ops->start(v->rig.root, &v->rig.err);
}

RIG void vr_free(struct vr *v)
{
	vr_end_kill(v);
	for (unsigned i = 0; i < v->rig.nworkers; i++)
		worker_stop(v->rig.workers[i]);
	rig_fini(&v->rig);
	options_destroy(v->parsed);
	unlink(v->disk);
	unlink(v->socket);
	rmdir(v->dir);
	free(v);
}

RIG struct front *vr_front(struct vr *v)
{
	return rig_front(&v->rig);
}

static void vr_kick(void *ctx)
{
	const uint64_t one = 1;

	cr_assert_eq(write(((struct front_queue *)ctx)->kick_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static uint64_t vr_ring(unsigned i)
{
	return 0x10000 + 0x8000 * (uint64_t)i;
}

/* Program n queues and say DRIVER_OK. */
RIG void vr_drive(struct vr *v, unsigned n, uint64_t features)
{
	struct front *f = vr_front(v);

	v->nqueues = n;
	v->features = features | VD_F_VERSION_1;
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	front_set_driver_features(f, 0, (uint32_t)v->features);
	front_set_driver_features(f, 1, (uint32_t)(v->features >> 32));
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
	cr_assert(front_status(f) & VIRTIO_S_FEATURES_OK, "features %llx", (unsigned long long)f->dev->offered);
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = vr_ring(i);
		const struct vd_config c = { .size = VR_SIZE, .features = v->features, .desc = v->low + at,
			.avail = v->low + at + 0x1000, .used = v->low + at + 0x2000, .tables = v->low + at + 0x3000,
			.tables_addr = at + 0x3000, .table_len = features & VD_F_INDIRECT ? VR_TABLE : 0,
			.kick = vr_kick, .kick_ctx = &f->q[i] };

		cr_assert(vd_queue_init(&v->vd[i], &c));
		front_queue_write(f, i, FRONT_Q_SIZE, VR_SIZE);
		front_queue_write(f, i, FRONT_Q_DESC_LO, (uint32_t)at);
		front_queue_write(f, i, FRONT_Q_AVAIL_LO, (uint32_t)at + 0x1000);
		front_queue_write(f, i, FRONT_Q_USED_LO, (uint32_t)at + 0x2000);
		front_queue_write(f, i, FRONT_Q_ENABLE, 1);
	}
	front_set_status(f, front_status(f) | VIRTIO_S_DRIVER_OK);
	cr_assert_not(front_status(f) & VIRTIO_S_NEEDS_RESET);
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < VR_DEPTH; k++) {
			uint64_t at = (i * VR_DEPTH + k) * 2 * (uint64_t)VR_BLOCK, gpa = VR_HIGH_AT + at;

			v->slot[i][k] = (struct vr_slot){ v->high + at, v->high + at + VR_BLOCK, v->high + at + 64, gpa,
				gpa + VR_BLOCK, gpa + 64, i, k, v->slot[i][k].version, false, false };
		}
}

/* Made with a back end, driven, and its worker runs. */
RIG void vr_begin(struct vr *v, const char *options, unsigned queues, uint64_t features)
{
	int r;

	vr_end_start(v);
	r = vr_create(v, options);
	cr_assert_eq(r, 0, "%s", v->rig.err.text);
	rig_run_workers(&v->rig);
	vr_drive(v, queues, features);
}

RIG struct vr *vr_disk(unsigned queues, uint64_t features)
{
	struct vr *v = vr_new(false);
	char text[32];

	if (features & VD_F_PACKED)
		v->end.features |= VD_F_PACKED;
	snprintf(text, sizeof(text), "num_queues=%u", queues);
	vr_begin(v, text, queues, features);
	return v;
}

/*
 * --- load: each slot writes a block of its own, reads it back, compares, and writes the next
 * version ---
 */

static void vr_fill(struct vr_slot *s, uint8_t *to)
{
	for (unsigned i = 0; i < VR_BLOCK; i += 4)
		put_le32(to + i, s->version * 2654435761u + s->number * 977u + s->queue * 31337u + i);
}

static void vr_submit(struct vr *v, struct vr_slot *s)
{
	const struct vd_seg segs[] = { { s->header_at, 16 }, { s->data_at, VR_BLOCK }, { s->status_at, 1 } };

	put_le32(s->header, s->reading ? BLK_T_IN : BLK_T_OUT);
	put_le64(s->header + 8, (s->queue * VR_DEPTH + s->number) * (uint64_t)(VR_BLOCK / BLK_SECTOR));
	*s->status = 0xee;
	if (s->reading)
		memset(s->data, 0xaa, VR_BLOCK);
	else
		vr_fill(s, s->data);
	s->busy = true;
	cr_assert(vd_add(&v->vd[s->queue], segs, s->reading ? 1 : 2, s->reading ? 2 : 1, s));
	vd_kick(&v->vd[s->queue]);
}

static void vr_answered(struct vr *v, struct vr_slot *s)
{
	uint8_t want[VR_BLOCK];

	cr_assert(s->busy, "queue %u: slot %u was answered twice", s->queue, s->number);
	cr_assert_eq(*s->status, BLK_S_OK, "queue %u: status %u", s->queue, *s->status);
	if (s->reading) {
		vr_fill(s, want);
		cr_assert(!memcmp(want, s->data, VR_BLOCK), "queue %u, slot %u, version %u: other bytes were read", s->queue,
			s->number, s->version);
		s->version++;
	}
	s->busy = false;
	s->reading = !s->reading;
	v->answered++;
}

/* Take what is answered; whether there was any. */
RIG bool vr_collect(struct vr *v)
{
	bool any = false;

	for (unsigned i = 0; i < v->nqueues; i++) {
		void *cookie;
		uint32_t len;
		int r;

		while ((r = vd_poll(&v->vd[i], &cookie, &len)) > 0) {
			vr_answered(v, cookie);
			any = true;
		}
		cr_assert_eq(r, 0, "queue %u: something came back that was not in flight", i);
	}
	return any;
}

RIG void vr_submit_all(struct vr *v)
{
	for (unsigned i = 0; i < v->nqueues; i++)
		for (unsigned k = 0; k < VR_DEPTH; k++)
			if (!v->slot[i][k].busy)
				vr_submit(v, &v->slot[i][k]);
}

/* One turn of load without end. */
RIG void vr_turn(struct vr *v)
{
	vr_submit_all(v);
	if (!vr_collect(v))
		vr_nap();
}

RIG bool vr_idle(struct vr *v)
{
	vr_collect(v);
	for (unsigned i = 0; i < v->nqueues; i++)
		for (unsigned k = 0; k < VR_DEPTH; k++)
			if (v->slot[i][k].busy)
				return false;
	return true;
}

/* So many answers more, and then everything that is in flight. */
RIG void vr_load(struct vr *v, unsigned long n)
{
	unsigned long until = v->answered + n;
	uint64_t end = vr_now_ms() + VR_PATIENCE_S * 1000;

	while (v->answered < until) {
		vr_turn(v);
		cr_assert(vr_now_ms() < end, "requests are lost");
	}
	VR_WAIT(vr_idle(v));
}

#endif
