/*
 * A console in a process of its own, at a terminal: what is printed is printed once and wholly, keys arrive, and the window
 * and ^A x still work, whichever life it is.
 */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "devices/virtio/console.h"
#include "tests/unit/process_rig.h"
#include "tests/unit/sealed.h"

enum { RX, TX, BIG = 50000, HANG_S = 30, KEYS = 64 };

static int master;
static unsigned printed;                 /* bytes of the pattern that arrived */

static void console(void)
{
	int slave;

	needs_filters();
	cr_assert_eq(openpty(&master, &slave, NULL, NULL, &(struct winsize){ .ws_row = 24, .ws_col = 80 }), 0);
	dup2(slave, 0);
	dup2(slave, 1);
	close(slave);
	fcntl(master, F_SETFL, O_NONBLOCK);
	printed = 0;
	prig_make(&virtio_console_row, "mode=tty,queue_size=32,isolation=process", PRIG_DEATHS);
}

static void end(void)
{
	front_set_status(prig_front(), 0);
	prig_end();
	close(master);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
}

/* No bytes that a terminal's line discipline would change. */
static uint8_t pattern(unsigned i)
{
	return (uint8_t)('0' + (i / 64 + i) % 75);
}

/* Prints so many bytes more of the pattern, in a chain. */
static unsigned print(unsigned from, unsigned len)
{
	const struct vd_seg seg = { PRIG_DATA + 2 * KIB + from, len };

	for (unsigned i = 0; i < len; i++)
		*(uint8_t *)prig_at(seg.addr + i) = pattern(from + i);
	cr_assert(vd_add(&p.vd[TX], &seg, 1, 0, &p));
	vd_kick(&p.vd[TX]);
	return from + len;
}

/* Takes what the terminal has, so much at most: each byte is the next one. */
static unsigned look(unsigned most)
{
	uint8_t bytes[4096];
	ssize_t n = read(master, bytes, MIN(most, (unsigned)sizeof(bytes)));

	for (ssize_t i = 0; i < n; i++, printed++)
		cr_assert_eq(bytes[i], pattern(printed), "byte %u is another one", printed);
	return n > 0 ? (unsigned)n : 0;
}

static void look_until(unsigned want)
{
	double until = prig_now() + HANG_S;

	while (printed < want) {
		look(want - printed);
		cr_assert_lt(prig_now(), until, "%u of %u bytes were printed", printed, want);
	}
}

/* Asleep, so that it dies between two chains or in the middle of one, but not of a write. */
static void kill_asleep(void)
{
	const volatile struct desk *desk = prig_back()->desk;
	uint32_t lives = desk->lives;
	char comm[32], state = 'R';
	int pid = prig_worker(), of;

	for (unsigned quiet = 0; quiet < 20; usleep(1000))
		quiet = prig_stat(pid, comm, &of, &state) && state == 'S' ? quiet + 1 : 0;
	kill(pid, SIGKILL);
	for (double until = prig_now() + HANG_S; desk->lives == lives;)
		cr_assert_lt(prig_now(), until, "no further life");
}

static void prints(uint64_t features)
{
	unsigned n = 0, done = 0, kills = 0;
	uint32_t len;
	void *cookie;

	console();
	prig_drive(2, features);
	/* One chain, longer than a terminal takes. */
	n = print(0, BIG);
	while (printed + 8 * KIB < BIG) {
		kill_asleep();
		kills++;
		look_until(printed + 4 * KIB);
	}
	cr_assert_gt(kills, 5);
	look_until(BIG);
	for (unsigned i = 0; i < 40; i++) {
		n = print(n, 100 + i);
		if (i % 4 == 0)
			kill_asleep();
		look_until(n);
		while (vd_poll(&p.vd[TX], &cookie, &len) == 1)
			done++;
	}
	usleep(20000);
	cr_assert_eq(look(4096), 0, "more than there was");
	while (vd_poll(&p.vd[TX], &cookie, &len) == 1)
		done++;
	cr_assert_eq(done, 41);
	end();
}

Test(back_process_console, kills_neither_lose_output_nor_repeat_it, .timeout = 600)
{
	prints(VD_F_EVENT_IDX);
}

Test(back_process_console, the_same_with_packed_rings, .timeout = 600)
{
	prints(VD_F_PACKED | VD_F_EVENT_IDX);
}

static void type_and_read(const char *keys)
{
	const struct vd_seg seg = { PRIG_DATA, KEYS };
	double until = prig_now() + HANG_S;
	size_t got = 0;

	cr_assert_eq(write(master, keys, strlen(keys)), (ssize_t)strlen(keys));
	while (got < strlen(keys)) {
		uint32_t len;
		void *cookie;

		cr_assert(vd_add(&p.vd[RX], &seg, 0, 1, &p));
		vd_kick(&p.vd[RX]);
		while (vd_poll(&p.vd[RX], &cookie, &len) != 1)
			cr_assert_lt(prig_now(), until, "%zu of the keys arrived", got);
		cr_assert(!memcmp(prig_at(PRIG_DATA), keys + got, len));
		got += len;
	}
}

Test(back_process_console, each_life_reads_keys_and_knows_the_window, .timeout = 300)
{
	uint16_t size[2];

	console();
	prig_drive(2, 0);
	for (uint16_t i = 0; i < 4; i++) {
		unsigned before;

		type_and_read("some keys");
		type_and_read("and more");
		cr_assert_eq(ioctl(master, TIOCSWINSZ, &(struct winsize){ .ws_row = 50, .ws_col = (uint16_t)(100 + i) }), 0);
		if (i % 2)
			kill_asleep();
		else
			kill(prig_worker(), SIGWINCH);
		for (double until = prig_now() + HANG_S; prig_now() < until;) {
			front_config_read(prig_front(), 0, size, sizeof(size));
			if (size[0] == 100 + i)
				break;
			prig_main(1000);
		}
		cr_assert_eq(size[0], 100 + i);
		before = p.posted[VM_EVENT_HANG_UP];
		cr_assert_eq(write(master, "\001x", 2), 2);
		for (unsigned ms = 0; ms < 5000 && p.posted[VM_EVENT_HANG_UP] == before; ms++)
			prig_main(1000);
		cr_assert_eq(p.posted[VM_EVENT_HANG_UP], before + 1);
	}
	end();
}
