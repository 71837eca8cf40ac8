/*
 * A disk in a process of its own, with a driver that checks all it reads: killed under load, stopped,
 * told nonsense and telling it, saved and loaded, given up.
 */
#include "tests/unit/process_disk.h"

#include <errno.h>
#include <sys/resource.h>

static void survives_kills(const char *options, unsigned queues, uint64_t features, unsigned times)
{
	double worst, until = prig_now() + HANG_S;

	disk(options, PRIG_DEATHS);
	srand(7);
	prig_drive(queues, features);
	while (answered <= 10 && prig_now() < until)
		run_for(queues, 0.05);
	cr_assert_gt(answered, 10);
	worst = kill_under_load(queues, times);
	finish(queues);
	cr_assert_gt(prig_back()->desk->lives, times / 2);
	cr_log_info("longest stall: %.3f s", worst);
	check_file();
	front_set_status(prig_front(), 0);
	end();
}

Test(back_process, a_hundred_kills_lose_no_request_and_repeat_none, .timeout = 600)
{
	survives_kills("", 1, VD_F_EVENT_IDX, 100);
}

Test(back_process, the_same_with_packed_rings, .timeout = 600)
{
	survives_kills("", 1, VD_F_PACKED | VD_F_EVENT_IDX, 100);
}

Test(back_process, the_same_with_two_queues, .timeout = 600)
{
	survives_kills(",num_queues=2", 2, VIRTIO_BIT(BLK_F_MQ), 30);
}

Test(back_process, the_same_past_the_page_cache, .timeout = 600)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_DIRECT, 0600);
	if (fd < 0)
		cr_skip_test("no direct I/O in /tmp");
	close(fd);
	survives_kills(",direct=on", 1, VD_F_EVENT_IDX, 40);
}

/* Each life registers the guest's memory anew. */
Test(back_process, the_same_with_registered_buffers, .timeout = 600)
{
	survives_kills(",fixed_buffers=on", 1, VD_F_EVENT_IDX, 40);
}

Test(back_process, it_serves_and_stops_and_serves_again, .timeout = 300)
{
	disk("", PRIG_DEATHS);
	for (unsigned round = 0; round < 5; round++) {
		prig_drive(1, round % 2 ? VD_F_PACKED : 0);
		run_for(1, 0.02);
		p.rig.dev->ops->pause(p.rig.dev);
		p.rig.dev->ops->resume(p.rig.dev);
		run_for(1, 0.02);
		finish(1);
		front_set_status(prig_front(), 0);
	}
	cr_assert_eq(prig_back()->desk->lives, 1);
	check_file();
	end();
}

Test(back_process, one_that_stops_answering_is_started_anew, .timeout = 300)
{
	uint64_t before;

	disk("", PRIG_DEATHS);
	prig_drive(1, 0);
	run_for(1, 0.02);
	cr_assert_eq(kill(prig_worker(), SIGSTOP), 0);
	usleep(20000);
	take(0);
	before = answered;
	run_for(1, 0.1);
	cr_assert_eq(answered, before, "it is stopped");
	/* The drain of a pause finds out, and the next life does it. */
	p.rig.dev->ops->pause(p.rig.dev);
	cr_assert_eq(prig_back()->desk->lives, 2);
	finish(1);
	p.rig.dev->ops->resume(p.rig.dev);
	run_for(1, 0.02);
	finish(1);
	check_file();
	end();
}

Test(back_process, one_that_dies_again_and_again_is_given_up, .timeout = 300)
{
	disk("", 3);
	prig_drive(1, 0);
	for (unsigned i = 0; i < 4; i++) {
		int pid = prig_worker();

		cr_assert_eq(kill(pid, SIGKILL), 0);
		while (kill(pid, 0) == 0)
			usleep(1000);
	}
	cr_assert(prig_wait_status(VIRTIO_S_NEEDS_RESET));
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a zombie is left");
	cr_assert_eq(p.posted[VM_EVENT_DEVICE_ERROR], 1);
	cr_assert(strstr(p.event, "gone for good"), "%s", p.event);
	/* A reset does not bring it back, and says so again. */
	front_set_status(prig_front(), 0);
	prig_drive(1, 0);
	cr_assert(front_status(prig_front()) & VIRTIO_S_NEEDS_RESET);
	end();
}

Test(back_process, its_end_is_noticed_when_the_keeper_dies, .timeout = 300)
{
	int pid;

	disk("", PRIG_DEATHS);
	prig_drive(1, 0);
	pid = prig_worker();
	cr_assert_eq(kill(prig_keeper(), SIGKILL), 0);
	cr_assert(prig_wait_status(VIRTIO_S_NEEDS_RESET));
	for (unsigned i = 0; i < 1000 && kill(pid, 0) == 0; i++)
		usleep(1000);
	cr_assert_neq(kill(pid, 0), 0, "it outlives its keeper");
	end();
}

/* --- requests that are held (on_error=) --- */

/* Its writes behind the first block fail, with EFBIG; or do not. */
static void fail_writes(int pid, bool fail)
{
	const struct rlimit limit = { fail ? BLOCK : RLIM_INFINITY, RLIM_INFINITY };

	cr_assert_eq(prlimit(pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

static unsigned held(void)
{
	return p.rig.dev->ops->held(p.rig.dev);
}

/* Until main has heard of so many pauses, one for each failure, and requests are held; how many. */
static unsigned until_paused(unsigned pauses)
{
	double until = prig_now() + HANG_S;

	while (p.posted[VM_EVENT_PAUSE] < pauses || !held()) {
		cr_assert_lt(prig_now(), until, "no event");
		load(1);
		prig_main(2000);
	}
	return held();
}

Test(back_process, what_failed_is_held_and_tried_again, .timeout = 300)
{
	unsigned before;

	disk(",on_error=pause", PRIG_DEATHS);
	srand(11);
	prig_drive(1, VD_F_EVENT_IDX);
	fail_writes(prig_worker(), true);
	cr_assert_gt(until_paused(1), 0);
	/* Again without help: held again, and told again. */
	before = p.posted[VM_EVENT_PAUSE];
	p.rig.dev->ops->retry(p.rig.dev);
	cr_assert_gt(until_paused(before + 1), 0);
	fail_writes(prig_worker(), false);
	p.rig.dev->ops->retry(p.rig.dev);
	finish(1);
	cr_assert_eq(held(), 0);
	cr_assert_eq(prig_back()->desk->lives, 1);
	check_file();
	end();
}

Test(back_process, what_is_held_when_it_dies_is_tried_and_held_by_the_next, .timeout = 300)
{
	disk(",on_error=pause", PRIG_DEATHS);
	srand(12);
	prig_drive(1, VD_F_PACKED);
	fail_writes(prig_keeper(), true);
	fail_writes(prig_worker(), true);
	for (unsigned i = 0; i < 5; i++) {
		unsigned before = p.posted[VM_EVENT_PAUSE];

		cr_assert_gt(until_paused(before + 1), 0);
		kill(prig_worker(), SIGKILL);
	}
	cr_assert_gt(until_paused(p.posted[VM_EVENT_PAUSE] + 1), 0);
	/* One whose writes work needs no retry() for them. */
	fail_writes(prig_keeper(), false);
	kill(prig_worker(), SIGKILL);
	finish(1);
	cr_assert_eq(held(), 0);
	check_file();
	end();
}

/* --- limits that are shared --- */

/* The inode of what lies at `at` in this process; 0: nothing that is shared. */
static unsigned long inode_at(int pid, const void *at)
{
	char name[64], line[256];
	unsigned long from, to, inode, found = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	f = fopen(name, "r");
	cr_assert_not_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &from, &to, &inode) == 3 && (uintptr_t)at >= from && (uintptr_t)at < to)
			found = inode;
	fclose(f);
	return found;
}

/* In its worker's process, too, there is what we have at this place. */
static bool is_seen(const void *at)
{
	unsigned long ours = inode_at(getpid(), at);

	cr_assert_neq(ours, 0);
	return inode_at(prig_worker(), at) == ours;
}

Test(back_process, a_limit_of_a_group_holds_over_all_its_lives, .timeout = 300)
{
	enum { OPS = 40, REFILL_MS = 400 };
	struct rate *group;
	double begin, spent;

	prig_groups = "name=g,ops_size=40,ops_refill_time=400";
	disk(",rate_group=g", PRIG_DEATHS);
	group = rate_groups_find(p.groups, "g");
	prig_drive(1, VD_F_EVENT_IDX);
	begin = prig_now();
	for (unsigned i = 0; i < 20; i++) {
		uint32_t lives = prig_back()->desk->lives;

		run_for(1, 0.03);
		kill(prig_worker(), SIGKILL);
		while (*(volatile uint32_t *)&prig_back()->desk->lives == lives)
			cr_assert_lt(prig_now() - begin, HANG_S);
	}
	cr_assert_neq(group->shared[RATE_OPS].full_at, 0, "main sees what its process has charged");
	spent = prig_now() - begin;
	/* What a life had begun and did not answer is begun, and charged, again. */
	cr_assert_lt(answered, OPS + OPS * spent * 1000 / REFILL_MS + 2, "%llu in %f s", (unsigned long long)answered, spent);
	cr_assert_gt(answered, OPS);
	/* The other way round: others of the group used it up. */
	finish(1);
	rate_charge(group, 0, 10 * OPS, rate_now());
	begin = prig_now();
	load(1);
	finish(1);
	cr_assert_gt(prig_now() - begin, 2.0, "it took %f s", prig_now() - begin);
	check_file();
	end();
}

Test(back_process, a_group_is_seen_by_its_own_devices_only, .timeout = 300)
{
	prig_groups = "name=g,ops_size=40,ops_refill_time=400";
	disk("", PRIG_DEATHS);
	cr_assert_not(is_seen(rate_groups_find(p.groups, "g")->shared));
	cr_assert(is_seen(prig_back()->desk));
	end();
	disk(",rate_group=g", PRIG_DEATHS);
	cr_assert(is_seen(rate_groups_find(p.groups, "g")->shared));
	end();
}

/* --- nonsense --- */

Test(back_process, nonsense_from_the_machine_is_refused, .timeout = 300)
{
	struct back_process *bp;
	struct desk *d;

	disk("", PRIG_DEATHS);
	bp = prig_back();
	d = bp->desk;
	prig_drive(1, 0);
	for (unsigned i = 0; i < 200; i++) {
		d->kind = i % 2 ? 99u + i : DESK_START + i % 7;
		d->setup.index = (uint16_t)(i * 977);
		d->setup.size = (uint16_t)(i * 31);
		d->setup.desc = i * UINT64_C(0x123456789);
		d->offset = i * 1000;
		d->len = i * 7777;
		d->load.len = i * 99991;
		memset(d->load.bytes, (int)i, sizeof(d->load.bytes));
		if (d->kind == DESK_STOP && !d->setup.index)
			continue;
		atomic_store(&d->asked, ++bp->asked);
		cr_assert_eq(write(bp->bell, &(uint64_t){ 1 }, 8), 8);
		for (unsigned t = 0; t < 2000 && atomic_load(&d->answered) != bp->asked; t++)
			usleep(1000);
		cr_assert_eq(atomic_load(&d->answered), bp->asked, "call %u", i);
	}
	cr_assert_eq(d->lives, 1, "it bears that");
	front_set_status(prig_front(), 0);
	prig_drive(1, 0);
	run_for(1, 0.02);
	finish(1);
	end();
}

Test(back_process, nonsense_from_the_process_harms_nobody_else, .timeout = 300)
{
	struct queue_setup last = { 0 };
	struct state_writer w = { 0 };
	struct back_process *bp;
	struct desk *d;

	disk("", PRIG_DEATHS);
	bp = prig_back();
	d = bp->desk;
	prig_drive(1, 0);
	run_for(1, 0.02);
	finish(1);
	/* As if it had written what it likes, and rung without end. */
	memset(d->event, 'x', sizeof(d->event));
	memset(&d->config, 0xa5, sizeof(d->config));
	for (unsigned i = 0; i < 3000; i++) {
		atomic_store(&d->notices, ~0u);
		cr_assert_eq(write(bp->notice, &(uint64_t){ 1 }, 8), 8);
		prig_main(50);
	}
	cr_assert_geq(strlen(p.event), DESK_EVENT_MAX - 1);
	cr_assert_eq(p.posted[VM_EVENT_HANG_UP], 0, "a disk ends no machine");
	cr_assert(front_status(prig_front()) & VIRTIO_S_NEEDS_RESET);
	for (unsigned i = 0; i < 2000 && d->lives < 2; i++)
		usleep(1000);
	cr_assert_geq(d->lives, 2, "who rings without end is replaced");
	/* A state that is none is not saved. */
	front_set_status(prig_front(), 0);
	cr_assert_eq(kill(prig_worker(), SIGSTOP), 0);
	bp->patience_ms = 1000000;
	d->state[0].len = d->state[1].len = ~0u;
	memset(d->state[0].bytes, 0xff, DESK_STATE_MAX);
	memset(d->state[1].bytes, 0xff, DESK_STATE_MAX);
	d->state_at = 12345;
	atomic_store(&d->answered, bp->asked + 1);
	cr_assert_lt(bp->back.ops->save(&bp->back, &w), 0);
	/* Indices are whatever they are. */
	d->setup.next_avail = 0xdead;
	d->result = 17;
	atomic_store(&d->answered, bp->asked + 1);
	cr_assert_lt(bp->back.ops->queue_stop(&bp->back, 0, &last), 0);
	state_writer_free(&w);
	end();
}

Test(back_process, a_desk_full_of_nonsense_ends_in_a_device_that_failed, .timeout = 300)
{
	srand(5);
	disk("", 5);
	prig_drive(1, 0);
	run_for(1, 0.02);
	for (unsigned round = 0; round < 12; round++) {
		uint8_t *bytes = (uint8_t *)prig_back()->desk;
		int pid = prig_worker();

		if (!pid)
			break;
		kill(pid, SIGSTOP);
		for (size_t i = sizeof(uint32_t) * 2; i < sizeof(struct desk) + 1024; i++)
			bytes[i] = (uint8_t)rand();
		kill(pid, SIGKILL);
		for (unsigned i = 0; i < 200 && kill(pid, 0) == 0; i++)
			usleep(1000);
		prig_main(1000);
	}
	/* Whatever it says now, we are here, and can take the device down. */
	front_set_status(prig_front(), 0);
	end();
}

/* --- state --- */

static uint8_t writeback_of(void)
{
	uint8_t v;

	front_config_read(prig_front(), offsetof(struct blk_config, writeback), &v, 1);
	return v;
}

Test(back_process, what_the_driver_set_survives_a_death, .timeout = 300)
{
	struct blk *blk;

	disk("", PRIG_DEATHS);
	blk = (struct blk *)prig_front()->dev;
	prig_drive(1, VIRTIO_BIT(BLK_F_CONFIG_WCE) | VIRTIO_BIT(BLK_F_FLUSH));
	front_config_write(prig_front(), offsetof(struct blk_config, writeback), &(uint8_t){ 0 }, 1);
	run_for(1, 0.01);
	kill_under_load(1, 3);
	finish(1);
	cr_assert_eq(writeback_of(), 0);
	p.rig.dev->ops->pause(p.rig.dev);
	struct state_writer w = { 0 };
	cr_assert_eq(p.rig.dev->ops->save(p.rig.dev, &w), 0);
	cr_assert_eq(blk->writeback, 0, "the machine's copy is what was saved");
	state_writer_free(&w);
	end();
}

Test(back_process, saved_and_loaded_it_goes_on, .timeout = 300)
{
	struct state_writer w = { 0 };
	struct state_reader r;

	disk("", PRIG_DEATHS);
	prig_drive(1, VIRTIO_BIT(BLK_F_CONFIG_WCE) | VIRTIO_BIT(BLK_F_FLUSH));
	front_config_write(prig_front(), offsetof(struct blk_config, writeback), &(uint8_t){ 0 }, 1);
	run_for(1, 0.02);
	p.rig.dev->ops->pause(p.rig.dev);
	cr_assert_eq(p.rig.dev->ops->save(p.rig.dev, &w), 0);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(p.rig.dev->ops->load(p.rig.dev, &r, &p.rig.err), 0, "%s", p.rig.err.text);
	p.rig.dev->ops->resume(p.rig.dev);
	run_for(1, 0.02);
	kill_under_load(1, 2);
	finish(1);
	cr_assert_eq(writeback_of(), 0);
	check_file();
	state_writer_free(&w);
	end();
}
