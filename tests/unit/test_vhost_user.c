/* The front end of vhost-user with a back end that dies, hangs, lies, and comes again. */
#include "tests/unit/rounds.h"
#include "tests/unit/sealed.h"
#include "tests/unit/vhost_user_rig.h"

static uint64_t capacity(struct vr *v)
{
	uint8_t bytes[8];

	front_config_read(vr_front(v), 0, bytes, sizeof(bytes));
	return get_le64(bytes);
}

static const struct vhost_user *vu_of(struct vr *v)
{
	return container_of(vr_front(v)->dev, struct vhost_user_device, dev)->vu;
}

Test(vhost_user, a_disk_is_served)
{
	struct vr *v = vr_disk(1, 0);

	cr_assert_eq(capacity(v), VR_DISK / BLK_SECTOR);
	vr_load(v, 2000);
	cr_assert_eq(v->nevents, 0);
	vr_free(v);
}

Test(vhost_user, the_back_end_interrupts_the_guest_by_itself)
{
	struct vr *v = vr_new(false);
	struct front *f;
	int call;

	vr_begin(v, "transport=mmio", 1, 0);
	f = vr_front(v);
	call = f->tops->call_fd(f->transport, 0);
	cr_assert_geq(call, 0);
	rig_rang(call, 0);
	for (unsigned i = 0; i < 3; i++) {
		vr_submit_all(v);
		cr_assert(rig_rang(call, 10 * 1000), "no interrupt");
		VR_WAIT(vr_idle(v));
		vr_end_kill(v);
		vr_end_start(v);
	}
	vr_free(v);
}

Test(vhost_user, every_queue_is_served, .timeout = 300)
{
	struct vr *v = vr_disk(VR_QUEUES, VD_F_INDIRECT | VIRTIO_BIT(BLK_F_MQ));

	vr_load(v, 4000);
	for (unsigned i = 0; i < VR_QUEUES; i++)
		cr_assert_gt(v->slot[i][0].version, 0);
	vr_free(v);
}

/* Our own addresses are nobody's business; a memory table where there are no slots. */
Test(vhost_user, an_older_back_end_is_enough, .timeout = 300)
{
	struct vr *v = vr_new(false);

	v->end.protocol = VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG);
	vr_begin(v, "", 1, 0);
	vr_load(v, 500);
	vr_free(v);
}

Test(vhost_user, features_are_those_of_both_sides)
{
	struct vr *v = vr_new(false);
	uint64_t offered;

	v->end.features &= ~VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
	v->end.features |= VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(60);
	vr_end_start(v);
	cr_assert_eq(vr_create(v, ""), 0, "%s", v->rig.err.text);
	offered = vr_front(v)->dev->offered;
	cr_assert(offered & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
	cr_assert_eq(offered & (VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(60) |
		VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES) | VIRTIO_BIT(BLK_F_MQ)), 0);
	vr_free(v);
}

/* Where a packed ring goes on stands in the in-flight buffer and nowhere else. */
Test(vhost_user, without_in_flight_tracking_no_packed_ring)
{
	struct vr *v = vr_new(false);

	v->end.features |= VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	v->end.protocol &= ~VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);
	vr_end_start(v);
	cr_assert_eq(vr_create(v, ""), 0, "%s", v->rig.err.text);
	cr_assert_not(vr_front(v)->dev->offered & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
	vr_free(v);
}

/* By its own hand at the worst moments, or by ours at any. */
static void killed_again_and_again(struct vr *v, unsigned times)
{
	uint64_t end = vr_now_ms() + 3 * VR_PATIENCE_S * 1000;

	vr_end_kill(v);
	v->end.depth = 8;
	for (unsigned i = 0; i < times; i++) {
		v->end.death = i % 4;
		v->end.dies_after = 1 + i * 7 % 61;
		vr_end_start(v);
		for (unsigned long until = v->answered + v->end.dies_after; waitpid(v->pid, NULL, WNOHANG) != v->pid;) {
			vr_turn(v);
			if (v->end.death == END_LIVES && v->answered > until)
				kill(v->pid, SIGKILL);
			cr_assert(vr_now_ms() < end, "kill %u: nothing goes on", i);
		}
		v->pid = 0;
	}
	v->end.death = END_LIVES;
	vr_end_start(v);
	vr_load(v, 200);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(vhost_user, killed_a_hundred_times_under_load, .timeout = 600)
{
	struct vr *v = vr_disk(2, VIRTIO_BIT(BLK_F_MQ));
	unsigned before;

	vr_load(v, 100);
	before = open_fds();
	killed_again_and_again(v, rounds(100));
	cr_assert_eq(open_fds(), before, "descriptors are left open");
	cr_assert_gt(v->nevents, 0);
	cr_assert_not(front_status(vr_front(v)) & VIRTIO_S_NEEDS_RESET);
	vr_free(v);
}

Test(vhost_user, killed_under_load_with_indirect_descriptors, .timeout = 600)
{
	struct vr *v = vr_disk(2, VIRTIO_BIT(BLK_F_MQ) | VD_F_INDIRECT);

	killed_again_and_again(v, 20);
	vr_free(v);
}

/* The back end insists on what the in-flight buffer says of each position. */
Test(vhost_user, packed_rings_killed_fifty_times, .timeout = 600)
{
	struct vr *v = vr_disk(2, VIRTIO_BIT(BLK_F_MQ) | VD_F_PACKED);

	vr_load(v, 500);
	killed_again_and_again(v, rounds(50));
	cr_assert_not(front_status(vr_front(v)) & VIRTIO_S_NEEDS_RESET);
	vr_free(v);
}

Test(vhost_user, packed_rings_with_indirect_descriptors, .timeout = 600)
{
	struct vr *v = vr_disk(1, VD_F_INDIRECT | VD_F_PACKED);

	vr_load(v, 500);
	killed_again_and_again(v, 12);
	vr_free(v);
}

Test(vhost_user, packed_rings_stop_and_go_on, .timeout = 300)
{
	struct vr *v = vr_disk(1, VD_F_PACKED);

	for (unsigned i = 0; i < 20; i++) {
		vr_submit_all(v);
		/* With and without somebody who could be asked. */
		if (i % 4 == 3)
			vr_end_kill(v);
		front_stop(vr_front(v));
		if (i % 4 == 3)
			vr_end_start(v);
		else
			cr_assert_eq(vr_front(v)->q[0].next_avail, vr_front(v)->q[0].next_used);
		front_restart(vr_front(v));
		vr_load(v, 20);
	}
	vr_free(v);
}

/* Under the worker's own filter: a call without a row would end this process. */
Test(vhost_user, a_sealed_worker_connects_again, .timeout = 300)
{
	struct vr *v;

	needs_filters();
	v = vr_new(false);
	vr_end_start(v);
	cr_assert_eq(vr_create(v, ""), 0, "%s", v->rig.err.text);
	for (unsigned i = 0; i < v->rig.nworkers; i++)
		cr_assert_eq(worker_run(v->rig.workers[i], SANDBOX_KILL, &v->rig.err), 0);
	vr_drive(v, 1, 0);
	vr_load(v, 100);
	killed_again_and_again(v, 4);
	front_stop(vr_front(v));
	front_restart(vr_front(v));
	vr_load(v, 100);
	vr_end_kill(v);
	front_stop(vr_front(v));
	vr_free(v);
}

Test(vhost_user, as_server_it_waits_and_is_found_again, .timeout = 600)
{
	struct vr *v = vr_new(false);

	v->end.connects = true;
	vr_begin(v, "vhost_mode=server", 1, 0);
	vr_load(v, 200);
	killed_again_and_again(v, 8);
	vr_free(v);
}

/* --- bad manners --- */

static void come_back_badly(struct vr *v, enum end_manners manners, enum vhost_user_request request)
{
	vr_submit_all(v);
	vr_end_kill(v);
	v->end.manners = manners;
	v->end.bad_request = request;
	vr_end_start(v);
	/* It is left: then it ends, or it waits for ever and is ended. */
	for (uint64_t end = vr_now_ms() + 100; vr_now_ms() < end;)
		vr_turn(v);
	vr_end_kill(v);
	v->end.manners = END_GOOD;
	vr_end_start(v);
	vr_load(v, 50);
}

Test(vhost_user, nonsense_is_a_stall_and_not_an_error, .timeout = 600)
{
	static const enum vhost_user_request requests[] = { VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES,
		VHOST_USER_GET_QUEUE_NUM, VHOST_USER_GET_MAX_MEM_SLOTS, VHOST_USER_GET_CONFIG, VHOST_USER_ADD_MEM_REG };
	struct vr *v = vr_disk(1, 0);

	for (enum end_manners m = END_GARBLES; m <= END_CLOSES; m++)
		for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
			come_back_badly(v, m, requests[i]);
	cr_assert_not(front_status(vr_front(v)) & VIRTIO_S_NEEDS_RESET);
	vr_free(v);
}

Test(vhost_user, a_back_end_that_hangs_is_left, .timeout = 300)
{
	struct vr *v = vr_disk(1, 0);
	pid_t hung;

	vr_submit_all(v);
	vr_end_kill(v);
	v->end.manners = END_HANGS;
	v->end.bad_request = VHOST_USER_GET_CONFIG;
	vr_end_start(v);
	hung = v->pid;
	/* It keeps its connection; only a deadline lets us go on to the next. */
	usleep(300 * 1000);
	v->end.manners = END_GOOD;
	vr_end_start(v);
	vr_load(v, 100);
	end_kill(hung);
	vr_free(v);
}

Test(vhost_user, a_stop_does_not_wait_for_a_hung_back_end_for_ever, .timeout = 300)
{
	struct vr *v = vr_new(false);
	uint64_t begin;

	v->end.manners = END_HANGS;
	v->end.bad_request = VHOST_USER_GET_VRING_BASE;
	vr_begin(v, "", 1, 0);
	vr_load(v, 100);
	begin = vr_now_ms();
	front_stop(vr_front(v));
	cr_assert_geq(vr_now_ms() - begin, VHOST_USER_STOP_MS - 500);
	cr_assert_eq(vr_front(v)->q[0].next_avail, get_le16(v->low + vr_ring(0) + 0x2002));
	vr_end_kill(v);
	v->end.manners = END_GOOD;
	vr_end_start(v);
	front_restart(vr_front(v));
	vr_load(v, 100);
	vr_free(v);
}

Test(vhost_user, answers_may_come_in_pieces, .timeout = 300)
{
	struct vr *v = vr_new(false);

	v->end.manners = END_PIECES;
	vr_begin(v, "", 1, 0);
	vr_load(v, 100);
	front_stop(vr_front(v));
	vr_free(v);
}

Test(vhost_user, one_that_offers_less_than_the_guest_uses_is_left, .timeout = 300)
{
	struct vr *v = vr_disk(1, VD_F_INDIRECT | VIRTIO_BIT(BLK_F_FLUSH));

	vr_load(v, 100);
	vr_end_kill(v);
	v->end.features &= ~VIRTIO_BIT(BLK_F_FLUSH);
	vr_end_start(v);
	vr_submit_all(v);
	for (uint64_t end = vr_now_ms() + 200; vr_now_ms() < end;)
		cr_assert_not(vr_collect(v), "it was served");
	cr_assert_gt(v->nevents, 0);
	vr_end_kill(v);
	v->end.features |= VIRTIO_BIT(BLK_F_FLUSH);
	/* What the guest does not use it may lack. */
	v->end.features &= ~VIRTIO_BIT(BLK_F_CONFIG_WCE);
	vr_end_start(v);
	vr_load(v, 100);
	vr_free(v);
}

/* --- pause, state, reset --- */

Test(vhost_user, pause_and_resume, .timeout = 300)
{
	struct vr *v = vr_disk(2, VIRTIO_BIT(BLK_F_MQ));

	for (unsigned i = 0; i < 20; i++) {
		vr_submit_all(v);
		front_stop(vr_front(v));
		cr_assert_eq(vr_front(v)->q[0].next_avail, get_le16(v->low + vr_ring(0) + 0x2002));
		front_restart(vr_front(v));
		vr_load(v, 20);
	}
	vr_free(v);
}

Test(vhost_user, one_that_answers_before_it_is_done_is_waited_for, .timeout = 300)
{
	struct vr *v = vr_new(false);

	v->end.slow_stop = true;
	v->end.depth = 12;
	vr_begin(v, "", 1, 0);
	for (unsigned i = 0; i < 20; i++) {
		vr_submit_all(v);
		front_stop(vr_front(v));
		cr_assert_eq(vr_front(v)->q[0].next_avail, get_le16(v->low + vr_ring(0) + 0x2002));
		front_restart(vr_front(v));
	}
	vr_load(v, 100);
	vr_free(v);
}

static int save(struct vr *v, struct state_writer *w)
{
	*w = (struct state_writer){ 0 };
	return v->rig.dev->ops->save(v->rig.dev, w);
}

Test(vhost_user, stopped_saved_and_restarted_without_a_back_end, .timeout = 300)
{
	struct vr *v = vr_disk(1, 0);
	struct state_reader r;
	struct state_writer w;

	vr_load(v, 100);
	vr_end_kill(v);
	v->rig.dev->ops->pause(v->rig.dev);
	cr_assert_eq(save(v, &w), 0);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(v->rig.dev->ops->load(v->rig.dev, &r, &v->rig.err), 0, "%s", v->rig.err.text);
	state_writer_free(&w);
	v->rig.dev->ops->resume(v->rig.dev);
	vr_submit_all(v);
	vr_end_start(v);
	vr_load(v, 100);
	vr_free(v);
}

/* Which they are only the in-flight buffer says, and that does not travel. */
Test(vhost_user, open_requests_of_a_lost_back_end_are_not_saved_but_kept, .timeout = 300)
{
	struct vr *v = vr_new(false);
	struct state_writer w;

	v->end.depth = 16;
	v->end.death = END_DIES_POPPED;
	v->end.dies_after = 5;
	vr_begin(v, "", 1, 0);
	vr_submit_all(v);
	end_wait(v->pid);
	v->pid = 0;
	v->rig.dev->ops->pause(v->rig.dev);
	cr_assert_eq(save(v, &w), -EBUSY);
	state_writer_free(&w);
	v->end.death = END_LIVES;
	vr_end_start(v);
	usleep(100 * 1000);
	v->rig.dev->ops->resume(v->rig.dev);
	vr_load(v, 100);
	v->rig.dev->ops->pause(v->rig.dev);
	cr_assert_eq(save(v, &w), 0);
	state_writer_free(&w);
	vr_free(v);
}

Test(vhost_user, a_reset_begins_anew_with_and_without_a_back_end, .timeout = 300)
{
	struct vr *v = vr_disk(2, VIRTIO_BIT(BLK_F_MQ));

	for (unsigned i = 0; i < 6; i++) {
		vr_submit_all(v);
		if (i % 2)
			vr_end_kill(v);
		front_set_status(vr_front(v), 0);
		cr_assert_eq(front_status(vr_front(v)), 0);
		if (i % 2)
			vr_end_start(v);
		/* What was in flight may be on the disk or not. */
		memset(v->slot, 0, sizeof(v->slot));
		vr_drive(v, 1 + i % 2, VIRTIO_BIT(BLK_F_MQ) | (i % 3 ? VD_F_INDIRECT : 0));
		vr_load(v, 100);
	}
	vr_free(v);
}

static struct vr *without_tracking(void)
{
	struct vr *v = vr_new(false);

	v->end.protocol &= ~VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);
	v->end.depth = 16;
	vr_begin(v, "", 1, 0);
	return v;
}

static bool needs_reset(struct vr *v)
{
	rig_main(&v->rig);
	return front_status(vr_front(v)) & VIRTIO_S_NEEDS_RESET;
}

Test(vhost_user, without_tracking_open_requests_need_a_reset, .timeout = 300)
{
	struct vr *v = without_tracking();
	const struct vhost_user *vu = vu_of(v);

	vr_load(v, 50);
	v->end.death = END_DIES_POPPED;
	vr_end_kill(v);
	/* What is submitted before the loss is noticed counts as taken. */
	VR_WAIT(__atomic_load_n(&vu->fd, __ATOMIC_RELAXED) < 0);
	vr_end_start(v);
	vr_load(v, 0);
	vr_submit_all(v);
	end_wait(v->pid);
	v->pid = 0;
	v->end.death = END_LIVES;
	vr_end_start(v);
	VR_WAIT(needs_reset(v));
	front_set_status(vr_front(v), 0);
	memset(v->slot, 0, sizeof(v->slot));
	vr_drive(v, 1, 0);
	vr_load(v, 50);
	vr_free(v);
}

Test(vhost_user, without_tracking_an_idle_ring_goes_on, .timeout = 300)
{
	struct vr *v = without_tracking();
	const struct vhost_user *vu = vu_of(v);

	for (unsigned i = 0; i < 5; i++) {
		vr_load(v, 50);
		vr_end_kill(v);
		VR_WAIT(__atomic_load_n(&vu->fd, __ATOMIC_RELAXED) < 0);
		vr_end_start(v);
	}
	vr_load(v, 50);
	cr_assert_not(needs_reset(v));
	vr_free(v);
}

/* --- config space --- */

Test(vhost_user, the_guest_hears_of_a_larger_disk, .timeout = 300)
{
	struct vr *v = vr_new(false);

	v->end.change_fd = eventfd(0, 0);
	vr_begin(v, "", 1, 0);
	for (unsigned i = 1; i <= 3; i++) {
		const uint64_t one = 1;

		vr_load(v, 20);
		cr_assert_eq(write(v->end.change_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
		VR_WAIT(capacity(v) == VR_DISK / BLK_SECTOR + 8 * i);
	}
	vr_load(v, 20);
	vr_free(v);
}

static uint8_t write_cache(struct vr *v)
{
	uint8_t byte;

	front_config_read(vr_front(v), offsetof(struct blk_config, writeback), &byte, 1);
	return byte;
}

Test(vhost_user, what_the_driver_wrote_is_told_to_the_next_back_end, .timeout = 300)
{
	struct vr *v = vr_disk(1, VIRTIO_BIT(BLK_F_CONFIG_WCE));
	const uint8_t off = 0;

	cr_assert_eq(write_cache(v), 1);
	front_config_write(vr_front(v), offsetof(struct blk_config, writeback), &off, 1);
	vr_load(v, 20);
	vr_end_kill(v);
	vr_end_start(v);
	vr_load(v, 20);
	cr_assert_eq(write_cache(v), 0);
	vr_free(v);
}

/* --- at the start --- */

static void refused(struct vr *v, const char *options, const char *words)
{
	cr_assert_lt(vr_create(v, options), 0, "it is taken");
	cr_assert(strstr(v->rig.err.text, words), "'%s' without '%s'", v->rig.err.text, words);
	cr_assert_not(strchr(v->rig.err.text, '\n'));
	vr_free(v);
}

Test(vhost_user_start, nobody_there)
{
	refused(vr_new(false), "", "no such socket");
}

Test(vhost_user_start, not_a_socket)
{
	struct vr *v = vr_new(false);

	close(open(v->socket, O_WRONLY | O_CREAT, 0600));
	refused(v, "", "nobody listens there");
}

Test(vhost_user_start, a_socket_that_a_dead_program_left)
{
	struct vr *v = vr_new(false);

	vr_end_start(v);
	vr_end_kill(v);
	refused(v, "", "nobody listens there");
}

Test(vhost_user_start, fewer_queues_than_asked_for)
{
	struct vr *v = vr_new(false);

	vr_end_start(v);
	refused(v, "num_queues=8", "serves fewer queues");
}

Test(vhost_user_start, a_disk_without_a_config_space)
{
	struct vr *v = vr_new(false);

	v->end.protocol &= ~VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG);
	vr_end_start(v);
	refused(v, "", "does not give its config space");
}

Test(vhost_user_start, one_of_before_virtio_1)
{
	struct vr *v = vr_new(false);

	v->end.features &= ~VIRTIO_BIT(VIRTIO_F_VERSION_1);
	vr_end_start(v);
	refused(v, "", "does not know virtio 1.0");
}

Test(vhost_user_start, options_that_are_the_programs_business)
{
	refused(vr_new(false), "path=/dev/null", "path");
	refused(vr_new(false), "readonly=on", "readonly");
	refused(vr_new(true), "tap=tap0", "tap");
	refused(vr_new(true), "num_queues=3", "even");
}

Test(vhost_user_start, nonsense_and_silence, .timeout = 300)
{
	for (enum end_manners m = END_HANGS; m <= END_CLOSES; m++) {
		struct vr *v = vr_new(false);

		v->end.manners = m;
		v->end.bad_request = VHOST_USER_GET_CONFIG;
		vr_end_start(v);
		refused(v, "", "the program there");
	}
}

Test(vhost_user_start, memory_of_our_own)
{
	struct vr *v = vr_new(false);
	void *ram = aligned_alloc(PAGE_4K, MIB);

	cr_assert_eq(mem_add_borrowed(v->rig.mem, 64 * MIB, MIB, ram), 0);
	vr_end_start(v);
	refused(v, "", "shared=on");
	free(ram);
}

/* --- network --- */

enum { FRAME = 100, HEADER = 12 };

static struct vr *vr_net(unsigned queues, uint64_t features)
{
	struct vr *v = vr_new(true);
	char text[64];

	snprintf(text, sizeof(text), "num_queues=%u,mac=02:00:00:00:00:01", queues);
	vr_begin(v, text, queues, features);
	return v;
}

/* One frame there and back on a pair. */
static void echo(struct vr *v, unsigned pair, uint8_t byte)
{
	struct vr_slot *to = &v->slot[2 * pair][0], *from = &v->slot[2 * pair + 1][0];
	const struct vd_seg rx = { to->data_at, 2000 }, tx = { from->data_at, HEADER + FRAME };
	void *cookie;
	uint32_t len = 0;

	memset(from->data, byte, HEADER + FRAME);
	cr_assert(vd_add(&v->vd[2 * pair], &rx, 0, 1, to) && vd_add(&v->vd[2 * pair + 1], &tx, 1, 0, from));
	vd_kick(&v->vd[2 * pair]);
	vd_kick(&v->vd[2 * pair + 1]);
	VR_WAIT(vd_poll(&v->vd[2 * pair + 1], &cookie, &len) == 1);
	VR_WAIT(vd_poll(&v->vd[2 * pair], &cookie, &len) == 1);
	cr_assert_eq(len, HEADER + FRAME);
	cr_assert(!memcmp(to->data, from->data, len));
}

Test(vhost_user_net, frames_pass_also_after_the_program_was_killed, .timeout = 300)
{
	struct vr *v = vr_net(2, 0);
	uint8_t config[8];

	front_config_read(vr_front(v), 0, config, sizeof(config));
	cr_assert(!memcmp(config, "\x02\0\0\0\0\x01\x01\0", 8), "address and link state");
	cr_assert_not(vr_front(v)->dev->offered & VIRTIO_BIT(NET_F_CTRL_VQ));
	for (unsigned i = 0; i < 10; i++) {
		echo(v, 0, (uint8_t)(i + 1));
		vr_end_kill(v);
		vr_end_start(v);
	}
	echo(v, 0, 99);
	vr_free(v);
}

/* A command of the control queue, which is queue `q`; the answer. */
static uint8_t command(struct vr *v, unsigned q, const char bytes[4])
{
	struct vr_slot *s = &v->slot[q][0];
	const struct vd_seg segs[] = { { s->data_at, 4 }, { s->data_at + 4, 1 } };
	void *cookie;
	uint32_t len;

	memcpy(s->data, bytes, 4);
	s->data[4] = 0xee;
	cr_assert(vd_add(&v->vd[q], segs, 1, 1, s));
	vd_kick(&v->vd[q]);
	VR_WAIT(vd_poll(&v->vd[q], &cookie, &len) == 1);
	return s->data[4];
}

/* The control queue is ours: the program behind the others never sees it. */
Test(vhost_user_net, pairs_come_into_use_by_command, .timeout = 300)
{
	struct vr *v = vr_new(true);

	v->end.queues = 4;
	vr_begin(v, "num_queues=4", 5, VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_MQ));
	echo(v, 0, 1);
	cr_assert_not(vu_of(v)->ring[2].enabled);
	cr_assert_eq(command(v, 4, "\x04\x00\x03\x00"), NET_ACK_ERR, "more pairs than there are");
	cr_assert_eq(command(v, 4, "\x04\x00\x00\x00"), NET_ACK_ERR, "none");
	cr_assert_eq(command(v, 4, "\x01\x00\x02\x00"), NET_ACK_ERR, "another command");
	cr_assert_eq(command(v, 4, "\x04\x00\x02\x00"), NET_ACK_OK);
	echo(v, 1, 2);
	vr_end_kill(v);
	vr_end_start(v);
	echo(v, 1, 3);
	front_stop(vr_front(v));
	front_restart(vr_front(v));
	echo(v, 1, 4);
	front_set_status(vr_front(v), 0);
	cr_assert_not(vu_of(v)->ring[2].enabled);
	vr_free(v);
}

Test(vhost_user_net, without_mq_the_control_queue_is_the_third, .timeout = 300)
{
	struct vr *v = vr_new(true);

	v->end.queues = 4;
	vr_begin(v, "num_queues=4", 3, VIRTIO_BIT(NET_F_CTRL_VQ));
	echo(v, 0, 1);
	cr_assert_eq(command(v, 2, "\x04\x00\x02\x00"), NET_ACK_ERR);
	cr_assert_not(vu_of(v)->ring[2].started);
	vr_free(v);
}

Test(vhost_user_net, one_pair_has_no_control_queue)
{
	struct vr *v = vr_new(true);

	vr_end_start(v);
	cr_assert_eq(vr_create(v, "num_queues=2"), 0, "%s", v->rig.err.text);
	cr_assert_not(vr_front(v)->dev->offered & (VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_MQ)));
	vr_free(v);
}

/* The address and the pairs in use travel. */
Test(vhost_user_net, saved_and_loaded, .timeout = 300)
{
	struct vr *v = vr_new(true), *to = vr_new(true);
	uint8_t mac[2][6];
	struct state_reader r;
	struct state_writer w;

	v->end.queues = to->end.queues = 4;
	vr_begin(v, "num_queues=4", 5, VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_MQ));
	cr_assert_eq(command(v, 4, "\x04\x00\x02\x00"), NET_ACK_OK);
	echo(v, 1, 1);
	v->rig.dev->ops->pause(v->rig.dev);
	cr_assert_eq(save(v, &w), 0);
	vr_end_start(to);
	cr_assert_eq(vr_create(to, "num_queues=4"), 0, "%s", to->rig.err.text);
	memcpy(to->low, v->low, VR_LOW);
	memcpy(to->high, v->high, VR_HIGH);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(to->rig.dev->ops->load(to->rig.dev, &r, &to->rig.err), 0, "%s", to->rig.err.text);
	front_config_read(vr_front(v), 0, mac[0], 6);
	front_config_read(vr_front(to), 0, mac[1], 6);
	cr_assert(!memcmp(mac[0], mac[1], 6), "another address");
	to->rig.dev->ops->resume(to->rig.dev);
	cr_assert(vu_of(to)->ring[3].enabled && vu_of(to)->ring[3].started);
	state_writer_free(&w);
	vr_free(to);
	vr_free(v);
}

/* --- words --- */

static struct vhost_user_msg reply_to(struct vhost_user_msg *asked, enum vhost_user_request request, uint32_t size)
{
	vhost_user_begin(asked, request, size);
	struct vhost_user_msg m = *asked;

	m.head.flags |= VHOST_USER_REPLY;
	return m;
}

Test(vhost_user_msg, only_the_reply_to_the_question_is_one)
{
	struct vhost_user_msg asked, m = reply_to(&asked, VHOST_USER_GET_FEATURES, 8);

	cr_assert_eq(vhost_user_reply(&m, &asked, 0), 0);
	cr_assert_eq(vhost_user_reply(&m, &asked, 1), -EPROTO, "a descriptor that nobody wants");
	m.head.flags &= ~(uint32_t)VHOST_USER_REPLY;
	cr_assert_eq(vhost_user_reply(&m, &asked, 0), -EPROTO);
	m = reply_to(&asked, VHOST_USER_GET_FEATURES, 8);
	m.head.size = 9;
	cr_assert_eq(vhost_user_reply_header(&m.head, VHOST_USER_GET_FEATURES), -EPROTO);
	m.head.size = 8;
	cr_assert_eq(vhost_user_reply_header(&m.head, VHOST_USER_GET_PROTOCOL_FEATURES), -EPROTO);
	cr_assert_eq(vhost_user_reply_header(&m.head, VHOST_USER_NONE), -EPROTO);
}

Test(vhost_user_msg, an_in_flight_buffer_holds_all_queues)
{
	struct vhost_user_msg asked, m = reply_to(&asked, VHOST_USER_GET_INFLIGHT_FD, sizeof(struct vhost_user_inflight));

	asked.body.inflight.num_queues = m.body.inflight.num_queues = 2;
	asked.body.inflight.queue_size = m.body.inflight.queue_size = 64;
	m.body.inflight.size = 2 * vhost_user_inflight_bytes(64, false);
	cr_assert_eq(vhost_user_reply(&m, &asked, 1), 0);
	cr_assert_eq(vhost_user_reply(&m, &asked, 0), -EPROTO, "without the descriptor");
	m.body.inflight.size--;
	cr_assert_eq(vhost_user_reply(&m, &asked, 1), -EPROTO, "too small");
	m.body.inflight.size = UINT64_MAX;
	m.body.inflight.offset = 4096;
	cr_assert_eq(vhost_user_reply(&m, &asked, 1), -EPROTO, "wraps");
	m.body.inflight.size = 1 << 20;
	m.body.inflight.num_queues = 0;
	cr_assert_eq(vhost_user_reply(&m, &asked, 1), -EPROTO, "no queues");
}

Test(vhost_user_msg, positions_of_a_packed_ring_travel_in_one_number)
{
	struct queue_setup q = { .features = VIRTIO_BIT(VIRTIO_F_RING_PACKED), .next_avail = 0x8005, .next_used = 0x0003 };

	cr_assert_eq(vhost_user_base(&q), 0x00038005);
	vhost_user_set_base(&q, 0x80010002);
	cr_assert_eq(q.next_avail, 2);
	cr_assert_eq(q.next_used, 0x8001);
	q.features = 0;
	vhost_user_set_base(&q, 0x80010002);
	cr_assert_eq(q.next_avail, 2);
	cr_assert_eq(q.next_used, 2);
}

enum { LOOK = 8 };

static struct vhost_user_split_region *split_region(size_t *ret_len)
{
	struct vhost_user_split_region *r;

	*ret_len = vhost_user_inflight_bytes(LOOK, false);
	r = calloc(1, *ret_len);
	r->version = 1;
	r->desc_num = LOOK;
	return r;
}

Test(vhost_user_msg, a_split_ring_goes_on_at_its_used_index)
{
	struct queue_setup q = { .size = LOOK };
	size_t len;
	struct vhost_user_split_region *r = split_region(&len);

	r->used_idx = 100;
	r->desc[3].inflight = r->desc[5].inflight = 1;
	cr_assert_eq(vhost_user_look_split(&q, r, len, 100), 2);
	cr_assert_eq(q.next_avail, 100);
	cr_assert_eq(q.next_used, 100);
	/* 5 is used already; only the mark is missing. */
	r->last_batch_head = 5;
	cr_assert_eq(vhost_user_look_split(&q, r, len, 101), 1);
	cr_assert_eq(q.next_avail, 101);
	r->last_batch_head = LOOK;
	cr_assert_eq(vhost_user_look_split(&q, r, len, 101), -EPROTO);
	cr_assert_eq(vhost_user_look_split(&q, r, len, 100 + LOOK + 1), -EPROTO);
	cr_assert_eq(vhost_user_look_split(&q, r, len - 1, 100), -EPROTO);
	r->version = 0;
	cr_assert_eq(vhost_user_look_split(&q, r, len, 7), 0);
	free(r);
}

static uint16_t flags_of(void *ctx, unsigned offset)
{
	cr_assert_lt(offset, LOOK);
	return *(uint16_t *)ctx;
}

Test(vhost_user_msg, a_packed_ring_goes_on_where_the_buffer_says)
{
	struct queue_setup q = { .size = LOOK, .features = VIRTIO_BIT(VIRTIO_F_RING_PACKED) };
	size_t len = vhost_user_inflight_bytes(LOOK, true);
	struct vhost_user_packed_region *r = calloc(1, len);
	uint16_t flags = 0;

	r->version = 1;
	r->free_head = r->old_free_head = LOOK;
	r->used_idx = r->old_used_idx = 6;
	r->used_wrap = r->old_used_wrap = 1;
	r->desc[0] = (struct vhost_user_packed_desc){ .inflight = 1, .num = 3 };
	cr_assert_eq(vhost_user_look_packed(&q, r, len, flags_of, &flags), 1);
	cr_assert_eq(q.next_used, 0x8006);
	cr_assert_eq(q.next_avail, 0x0001, "6 + 3 is 1 in the next round: %x", q.next_avail);
	/*
	 * A batch under way: entry 0 freed, the used position moved on by 1, the flags not written.
	 */
	r->free_head = 0;
	r->desc[0].next = LOOK;
	r->used_idx = 7;
	flags = 1 << 7;
	cr_assert_eq(vhost_user_look_packed(&q, r, len, flags_of, &flags), 1);
	cr_assert_eq(q.next_used, 0x8006);
	/* And written: the driver has it. */
	flags = 1 << 7 | 1 << 15;
	cr_assert_eq(vhost_user_look_packed(&q, r, len, flags_of, &flags), 0);
	cr_assert_eq(q.next_used, 0x8007);
	cr_assert_eq(q.next_avail, 0x8007);
	r->used_idx = LOOK;
	cr_assert_eq(vhost_user_look_packed(&q, r, len, flags_of, &flags), -EPROTO);
	r->used_idx = 7;
	r->desc[1] = (struct vhost_user_packed_desc){ .inflight = 1, .num = LOOK + 1 };
	cr_assert_eq(vhost_user_look_packed(&q, r, len, flags_of, &flags), -EPROTO);
	free(r);
}
