/*
 * Workers behind the front: who serves which queue, kicks, drains, broken rings; with real threads
 * where that matters.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <time.h>

#include "tests/unit/rounds.h"
#include "tests/unit/virtio_rig.h"

enum { SOON_MS = 5000, NEVER_MS = 50 };

static struct rig rig;
static struct front *f;
static struct echo *echo;

static void setup(void)
{
	rig_init(&rig);
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_PCI), 0, "%s", rig.err.text);
	f = rig_front(&rig);
	echo = rig_echo_device(&rig);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(back, .init = setup, .fini = teardown);

static int call_fd(unsigned queue)
{
	return irq_fd(pci_msix_source(f->transport, queue + 1));
}

Test(back, a_worker_per_pair_named_after_the_device)
{
	cr_assert_eq(rig.nworkers, 2);
	cr_assert_str_eq(rig.names[0], "_echo0_qp0");
	cr_assert_str_eq(rig.names[1], "_echo0_qp1");
}

Test(back, a_long_id_is_cut_before_the_number)
{
	struct device *second = NULL;

	rig.env.id = "a-rather-long-name-of-a-disk";
	cr_assert_eq(
		virtio_create(&second, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err), 0);
	cr_assert_str_eq(rig.names[2], "a-rather-lo_qp0");
	cr_assert_str_eq(rig.names[3], "a-rather-lo_qp1");
	second->ops->destroy(second);
}

Test(back, a_kick_is_served_and_answered)
{
	rig_run_workers(&rig);
	rig_drive(&rig, 2, RIG_SPLIT);
	for (uint16_t n = 0; n < 20; n++) {
		rig_put(&rig, 0, n, 100u + n);
		front_kick(f, 0);
		cr_assert(rig_rang(call_fd(0), SOON_MS), "%u", n);
		cr_assert_eq(rig_used_idx(&rig, 0), n + 1);
		cr_assert_eq(rig_reply(&rig, 0, n), 100u + n);
	}
	front_set_status(f, 0);
	cr_assert_eq(echo->echoed, 20);
}

Test(back, both_workers_serve_at_once)
{
	rig_run_workers(&rig);
	rig_drive(&rig, 3, RIG_SPLIT | VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
	for (unsigned i = 0; i < 3; i++)
		rig_put(&rig, i, 0, 7 + i);
	for (unsigned i = 0; i < 3; i++)
		front_kick(f, i);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(rig_rang(call_fd(i), SOON_MS));
		cr_assert_eq(rig_reply(&rig, i, 0), 7 + i);
	}
}

Test(back, after_reset_kicks_are_not_served)
{
	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	front_set_status(f, 0);
	cr_assert_eq(echo->stopped, 1);
	cr_assert_null(f->dev->queues[0]);
	rig_put(&rig, 0, 0, 1);
	rig_write(rig.mmio, ((struct pci_function *)f->transport)->bar[0].mapped + 0x1000, 0, 2);
	cr_assert(!rig_rang(call_fd(0), NEVER_MS));
	cr_assert_eq(rig_used_idx(&rig, 0), 0);
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert(rig_rang(call_fd(0), SOON_MS), "what lies there is found at the next start");
}

Test(back, a_broken_ring_is_left_alone_and_main_is_told_once)
{
	uint8_t *ram = rig.ram;

	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	/* idx further ahead than the ring is long; the worker may be having its first look at it */
	__atomic_store_n((uint16_t *)(ram + rig_avail(0) + 2), 1000, __ATOMIC_RELEASE);
	front_kick(f, 0);
	for (unsigned i = 0; i < 500 && !(front_status(f) & VIRTIO_S_NEEDS_RESET); i++) {
		usleep(10000);
		rig_main(&rig);
	}
	cr_assert(front_status(f) & VIRTIO_S_NEEDS_RESET);
	unsigned handled = __atomic_load_n(&echo->handled, __ATOMIC_SEQ_CST);
	front_kick(f, 0);
	usleep(NEVER_MS * 1000);
	cr_assert_eq(__atomic_load_n(&echo->handled, __ATOMIC_SEQ_CST), handled);
	front_set_status(f, 0);
	put_le16(ram + rig_avail(0) + 2, 0);
	rig_put(&rig, 0, 0, 5);
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert(rig_rang(call_fd(0), SOON_MS), "a reset heals it");
}

Test(back, chains_that_a_device_leaves_do_not_make_it_spin)
{
	rig_run_workers(&rig);
	echo->lazy = true;
	rig_put(&rig, 0, 0, 5);
	rig_drive(&rig, 1, RIG_SPLIT);
	usleep(NEVER_MS * 1000);
	cr_assert_leq(__atomic_load_n(&echo->handled, __ATOMIC_SEQ_CST), 4);
	__atomic_store_n(&echo->lazy, false, __ATOMIC_SEQ_CST);
	front_kick(f, 0);
	cr_assert(rig_rang(call_fd(0), SOON_MS), "the next kick reaches it");
}

Test(back, a_queue_the_device_cannot_start_is_closed_again)
{
	echo->start_error = -EIO;
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert(front_status(f) & VIRTIO_S_NEEDS_RESET);
	cr_assert_null(f->dev->queues[0]);
	echo->start_error = 0;
	front_set_status(f, 0);
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert_not_null(f->dev->queues[0]);
}

Test(back, a_device_that_runs_can_be_destroyed)
{
	unsigned destroyed = 0;

	rig_run_workers(&rig);
	echo->destroyed = &destroyed;
	rig_drive(&rig, 3, RIG_SPLIT);
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	cr_assert_eq(destroyed, 1);
	rig_main(&rig);
}

Test(back, pause_and_resume_lose_and_repeat_nothing)
{
	uint16_t n = 0;

	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	for (unsigned round = 0; round < 30; round++) {
		rig_put(&rig, 0, n, n);
		n++;
		front_kick(f, 0);
		rig.dev->ops->pause(rig.dev);
		rig.dev->ops->resume(rig.dev);
		for (unsigned i = 0; i < 500 && rig_used_idx(&rig, 0) != n; i++)
			usleep(1000);
		cr_assert_eq(rig_used_idx(&rig, 0), n);
	}
	front_set_status(f, 0);
	cr_assert_eq(echo->echoed, n);
}

Test(back, a_config_write_is_told_to_the_device)
{
	uint8_t b = 1;

	rig_run_workers(&rig);
	front_config_write(f, 8, &b, 1);
	cr_assert_eq(__atomic_load_n(&echo->written, __ATOMIC_SEQ_CST), 1);
	front_config_write(f, 0, &b, 1);
	cr_assert_eq(__atomic_load_n(&echo->written, __ATOMIC_SEQ_CST), 1, "not writable");
}

static void *config_writer(void *ctx)
{
	struct virtio_config *c = ctx;

	for (uint32_t i = 0, n = rounds(200000); i < n; i++) {
		uint32_t pair[2] = { i, ~i };

		virtio_config_write(c, 0, pair, sizeof(pair));
	}
	return NULL;
}

Test(back, a_config_read_is_never_torn)
{
	pthread_t a, b;
	uint32_t pair[2] = { 0, ~0u };

	virtio_config_write(&f->dev->config, 0, pair, sizeof(pair));
	cr_assert_eq(pthread_create(&a, NULL, config_writer, &f->dev->config), 0);
	cr_assert_eq(pthread_create(&b, NULL, config_writer, &f->dev->config), 0);
	for (unsigned i = 0, n = rounds(200000); i < n; i++) {
		virtio_config_read(&f->dev->config, 0, pair, sizeof(pair));
		cr_assert_eq(pair[0], ~pair[1]);
	}
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	cr_assert_eq(virtio_config_generation(&f->dev->config) & 1, 0);
}

/* Kicks that follow each other closely make a worker look. */
static uint16_t warm_up(uint16_t n)
{
	for (unsigned i = 0; i < 4; i++, n++) {
		rig_put(&rig, 0, n, n);
		front_kick(f, 0);
		cr_assert(rig_rang(call_fd(0), 60000));
	}
	return n;
}

Test(back, a_polling_worker_finds_chains_that_nobody_announced, .timeout = 600)
{
	uint16_t n;

	echo->dev.poll_ns = UINT64_C(3000000000);
	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	n = warm_up(0);
	for (unsigned i = 0; i < 10; i++, n++) {
		rig_put(&rig, 0, n, 100u + n);
		if (!rig_rang(call_fd(0), 60000)) {
			front_set_status(f, 0);
			cr_skip_test("this machine stood still longer than the worker polls");
		}
		cr_assert_eq(rig_reply(&rig, 0, n), 100u + n);
	}
	front_set_status(f, 0);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* One may look for up to a millisecond; after the last request that is all. */
Test(back, an_idle_worker_that_polls_takes_no_cpu, .timeout = 600)
{
	enum { IDLE_NS = 300000000, LITTLE_NS = 60000000 };
	uint64_t before;

	echo->dev.poll_ns = 1000000;
	rig_run_workers(&rig);
	rig_drive(&rig, 2, RIG_SPLIT);
	for (unsigned i = 0; i < 50; i++)
		warm_up((uint16_t)(4 * i));
	before = cpu_ns();
	nanosleep(&(struct timespec){ 0, IDLE_NS }, NULL);
	cr_assert_lt(cpu_ns() - before, LITTLE_NS);
	front_set_status(f, 0);
}

/* As a disk that waits for its rate: what it leaves is its own to fetch, and looking would never end. */
Test(back, a_polling_worker_does_not_spin_on_chains_that_are_meant_to_lie, .timeout = 600)
{
	unsigned handled;

	echo->dev.poll_ns = UINT64_C(3000000000);
	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	warm_up(0);
	__atomic_store_n(&echo->lazy, true, __ATOMIC_SEQ_CST);
	rig_put(&rig, 0, 4, 4);
	front_kick(f, 0);
	nanosleep(&(struct timespec){ 0, NEVER_MS * 1000000 }, NULL);
	handled = __atomic_load_n(&echo->handled, __ATOMIC_SEQ_CST);
	cr_assert_lt(handled, 20);
	nanosleep(&(struct timespec){ 0, NEVER_MS * 1000000 }, NULL);
	cr_assert_leq(__atomic_load_n(&echo->handled, __ATOMIC_SEQ_CST), handled + 1);
	__atomic_store_n(&echo->lazy, false, __ATOMIC_SEQ_CST);
	front_set_status(f, 0);
}

Test(back, a_polling_worker_goes_to_sleep_and_is_woken_by_a_kick, .timeout = 600)
{
	echo->dev.poll_ns = 1000;
	rig_run_workers(&rig);
	rig_drive(&rig, 1, RIG_SPLIT);
	for (uint16_t n = 0; n < 20; n++) {
		rig_put(&rig, 0, n, 100u + n);
		front_kick(f, 0);
		cr_assert(rig_rang(call_fd(0), 60000), "%u", n);
		cr_assert_eq(rig_reply(&rig, 0, n), 100u + n);
		nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
	}
	front_set_status(f, 0);
	cr_assert_eq(echo->echoed, 20);
}

/* --- a worker bound to a CPU --- */

struct where {
	cpu_set_t set;
	int result;
};

static void look_where(void *ctx)
{
	struct where *w = ctx;

	w->result = sched_getaffinity(0, sizeof(w->set), &w->set);
}

Test(worker, a_bound_worker_runs_on_its_cpu_and_nobody_else_moves)
{
	struct where mine, its;
	struct worker *w;
	struct error err;
	unsigned cpu = 0;

	look_where(&mine);
	while (!CPU_ISSET(cpu, &mine.set))
		cpu++;
	cr_assert_eq(worker_create(&w, "_disk0_q0", &err), 0);
	worker_pin(w, cpu);
	cr_assert_eq(worker_run(w, SANDBOX_OFF, &err), 0, "%s", err.text);
	cr_assert_eq(worker_call(w, look_where, &its), 0);
	cr_assert_eq(its.result, 0);
	cr_assert_eq(CPU_COUNT(&its.set), 1);
	cr_assert(CPU_ISSET(cpu, &its.set));
	look_where(&its);
	cr_assert(CPU_EQUAL(&its.set, &mine.set));
	worker_destroy(w);
}
