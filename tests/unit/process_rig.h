/*
 * A device in a process of its own, and who drives it: a virtio device made from its options, with
 * its queues' rings in shared memory, a driver at each, and the pid of its worker process, to be
 * killed. Included by one .c of a test program.
 */
#ifndef TESTS_UNIT_PROCESS_RIG_H
#define TESTS_UNIT_PROCESS_RIG_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "devices/virtio/back_process.h"
#include "devices/virtio/front.h"
#include "tests/driver/vdriver.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/options.h"
#include "vmm/rate_group.h"

enum { PRIG_QUEUES = 3, PRIG_SIZE = 32, PRIG_DEATHS = 1000 };
enum { PRIG_RINGS = 0x10000, PRIG_RING_BYTES = 0x4000, PRIG_DATA = 0x40000 };

struct prig {
	struct rig rig;
	struct options *options;
	struct process *process;
	unsigned deaths;               /* that the keeper bears */
	struct rate_groups *groups;    /* those of prig_groups */
	struct vm_events events;
	unsigned posted[VM_EVENT_FAILED + 1]; /* of each event */
	char event[128];         /* the last one's words */
	uint64_t features;
	struct vd_queue vd[PRIG_QUEUES];
};

static struct prig p;
/* Values of --rate-group, set before prig_make(). */
static const char *prig_groups;

RIG int prig_take_process(const struct device_env *env, struct process *process, struct error *err)
{
	(void)env;
	p.process = process;
	process_bear(process, p.deaths, 60);
	return process_make_filters(process, SANDBOX_KILL, err);
}

RIG void prig_on_event(void *ctx, enum vm_event event, const char *what)
{
	(void)ctx;
	p.posted[event]++;
	snprintf(p.event, sizeof(p.event), "%s", what ? what : "");
}

RIG struct front *prig_front(void)
{
	return rig_front(&p.rig);
}

RIG struct back_process *prig_back(void)
{
	return (struct back_process *)prig_front()->back;
}

RIG int prig_find_group(const struct device_env *env, const char *name, struct rate **ret, struct error *err)
{
	(void)env, (void)err;
	*ret = rate_groups_find(p.groups, name);
	return *ret ? 0 : -ENOENT;
}

RIG void prig_make_groups(void)
{
	static const struct option_group *const groups[] = { &rate_group_options, NULL };
	char *argv[] = { (char *)"test", (char *)"--rate-group", (char *)(uintptr_t)prig_groups, NULL };
	struct options *o;

	if (!prig_groups)
		return;
	cr_assert_eq(options_create(&o, groups), 0);
	cr_assert_eq(options_parse_argv(o, 3, argv, &p.rig.err), 0, "%s", p.rig.err.text);
	cr_assert_eq(rate_groups_create(&p.groups, o, &p.rig.err), 0, "%s", p.rig.err.text);
	options_destroy(o);
	p.rig.env.rate_group = prig_find_group;
}

/* The device's options as the command line would give them; then its process, without walls. */
RIG void prig_make(const struct device_type *row, const char *text, unsigned deaths)
{
	const struct option_group *const groups[] = { row->options, NULL };
	char flag[32], value[512];
	char *argv[] = { (char *)"test", flag, value, NULL };

	signal(SIGPIPE, SIG_IGN);
	memset(&p, 0, sizeof(p));
	rig_make(&p.rig, true);
	p.deaths = deaths;
	p.events = (struct vm_events){ .post = prig_on_event };
	p.rig.env.events = &p.events;
	p.rig.env.process = prig_take_process;
	p.rig.env.id = "_dev0";
	prig_make_groups();
	snprintf(flag, sizeof(flag), "--%s", row->options->flag);
	snprintf(value, sizeof(value), "%s", text);
	cr_assert_eq(options_create(&p.options, groups), 0);
	cr_assert_eq(options_parse_argv(p.options, 3, argv, &p.rig.err), 0, "%s", p.rig.err.text);
	cr_assert_eq(row->create(&p.rig.dev, &p.rig.env, options_get(p.options, row->options->flag, 0), &p.rig.err), 0,
		"%s", p.rig.err.text);
	cr_assert_not_null(p.process);
	cr_assert_eq(p.rig.root->ops->start(p.rig.root, &p.rig.err), 0);
	cr_assert_eq(process_fork_all(&p.process, 1, SANDBOX_KILL, NULL, &p.rig.err), 0, "%s", p.rig.err.text);
	cr_assert_eq(process_watch(p.process, p.rig.main_loop, &p.rig.err), 0);
}

RIG void prig_end(void)
{
	rig_fini(&p.rig);
	options_destroy(p.options);
	rate_groups_destroy(p.groups);
}

/* --- its processes --- */

/* Name and parent of a process; false when it is gone. */
RIG bool prig_stat(int pid, char comm[32], int *parent, char *state)
{
	char path[64], line[512] = "", *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return false;
	end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	if (!end || sscanf(end + 1, " %c %d", state, parent) != 2)
		return false;
	*end = '\0';
	snprintf(comm, 32, "%s", strchr(line, '(') + 1);
	return true;
}

/* A child of `parent`, or 0. */
RIG int prig_child(int parent)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int found = 0;

	while ((e = readdir(proc))) {
		char comm[32], state;
		int of, pid = atoi(e->d_name);

		if (pid > 0 && prig_stat(pid, comm, &of, &state) && of == parent && state != 'Z')
			found = pid;
	}
	closedir(proc);
	return found;
}

RIG int prig_keeper(void)
{
	return prig_child(getpid());
}

RIG int prig_worker(void)
{
	int keeper = prig_keeper(), pid = 0;

	for (unsigned i = 0; keeper && !pid && i < 2000; i++) {
		pid = prig_child(keeper);
		if (!pid)
			usleep(1000);
	}
	return pid;
}

/* --- the driver --- */

RIG void prig_kick(void *ctx)
{
	const uint64_t one = 1;
	int fd = prig_front()->q[(struct vd_queue *)ctx - p.vd].kick_fd;

	cr_assert_eq(write(fd, &one, sizeof(one)), 8);
}

RIG void *prig_at(uint64_t addr)
{
	return (uint8_t *)p.rig.ram + addr;
}

RIG void prig_program(unsigned i)
{
	struct front *f = prig_front();
	uint64_t base = PRIG_RINGS + (uint64_t)i * PRIG_RING_BYTES;
	const struct vd_config c = {
		.size = PRIG_SIZE,
		.features = p.features,
		.desc = prig_at(base),
		.avail = prig_at(base + 0x1000),
		.used = prig_at(base + 0x2000),
		.kick = prig_kick,
		.kick_ctx = &p.vd[i],
	};

	cr_assert(vd_queue_init(&p.vd[i], &c));
	front_queue_write(f, i, FRONT_Q_SIZE, PRIG_SIZE);
	front_queue_write(f, i, FRONT_Q_DESC_LO, (uint32_t)base);
	front_queue_write(f, i, FRONT_Q_AVAIL_LO, (uint32_t)base + 0x1000);
	front_queue_write(f, i, FRONT_Q_USED_LO, (uint32_t)base + 0x2000);
	front_queue_write(f, i, FRONT_Q_VECTOR, i + 1);
	front_queue_write(f, i, FRONT_Q_ENABLE, 1);
}

/* Status machine up to DRIVER_OK; queues 0 to n - 1. */
RIG void prig_drive(unsigned n, uint64_t features)
{
	struct front *f = prig_front();

	p.features = features | VD_F_VERSION_1;
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	front_set_driver_features(f, 0, (uint32_t)p.features);
	front_set_driver_features(f, 1, (uint32_t)(p.features >> 32));
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
	cr_assert(front_status(f) & VIRTIO_S_FEATURES_OK);
	for (unsigned i = 0; i < n; i++)
		prig_program(i);
	front_set_status(f, front_status(f) | VIRTIO_S_DRIVER_OK);
}

RIG double prig_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

RIG void prig_stop_loop(void *ctx)
{
	loop_stop(ctx);
}

/* Main's loop for so long. */
RIG void prig_main(unsigned us)
{
	struct loop_source *timer;

	cr_assert_eq(loop_timer_add(p.rig.main_loop, prig_stop_loop, p.rig.main_loop, &timer), 0);
	loop_timer_set(timer, us * UINT64_C(1000), 0);
	cr_assert_eq(loop_run(p.rig.main_loop), 0);
	loop_remove(timer);
}

/* Let main's loop hear of things until `flag` is set in the status. */
RIG bool prig_wait_status(unsigned flag)
{
	for (unsigned i = 0; i < 1000 && !(front_status(prig_front()) & flag); i++)
		prig_main(5000);
	return front_status(prig_front()) & flag;
}

#endif
