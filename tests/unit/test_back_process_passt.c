/*
 * User-mode networking in a process of its own: one process after the other at the same stream, with this program as passt
 * at its end, which looks at each frame and cuts its own where it likes.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/unit/process_rig.h"
#include "tests/unit/sealed.h"

enum { RX, TX, SLOTS = 8, SLOT_BYTES = 64 * KIB, SMALL = 60, LARGE = 60000, HEADER = 12, HANG_S = 30 };
#define RX_DATA (PRIG_DATA + (uint64_t)SLOTS * SLOT_BYTES)
#define REPORT "TEST_PASST_REPORT"

/* What the other end has seen, in a file that both map. */
struct report {
	_Atomic uint32_t frames, large, torn, sent, last;
	_Atomic int pid;
};

static struct report *map_report(const char *path)
{
	int fd = open(path, O_RDWR);
	void *at = mmap(NULL, sizeof(struct report), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	return at == MAP_FAILED ? NULL : at;
}

/* --- the other end --- */

static uint8_t byte_of(uint32_t number, unsigned i)
{
	return (uint8_t)(number * 31 + i * 7 + i / 256);
}

/* Bytes 0 to 17 are addresses and type, then the number, then what follows from it. */
static bool is_sound(const uint8_t *frame, uint32_t len, uint32_t *number)
{
	*number = get_le32(frame + 18);
	for (unsigned i = 22; i < len; i++)
		if (frame[i] != byte_of(*number, i))
			return false;
	return true;
}

static bool take_all(int fd, void *to, size_t len)
{
	return recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

static void receive_one(int fd, struct report *r)
{
	static uint8_t frame[70000];
	uint32_t len, number;

	if (!take_all(fd, &len, 4))
		_exit(0);
	len = __builtin_bswap32(len);
	if ((len != SMALL && len != LARGE) || !take_all(fd, frame, len) || !is_sound(frame, len, &number)) {
		r->torn++;
		_exit(1);
	}
	r->frames++;
	r->large += len == LARGE;
	r->last = MAX(r->last, number);
}

/* In pieces, with a pause between, as when the socket is full. */
static void send_one(int fd, struct report *r)
{
	uint8_t frame[4 + SMALL] = { 0, 0, 0, SMALL, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5 };
	size_t cut = r->sent % 3 ? sizeof(frame) : 1 + r->sent % (sizeof(frame) - 1);

	put_le32(frame + 4 + 18, r->sent);
	for (unsigned i = 22; i < SMALL; i++)
		frame[4 + i] = byte_of(r->sent, i);
	if (send(fd, frame, cut, MSG_NOSIGNAL) != (ssize_t)cut)
		_exit(0);
	if (cut < sizeof(frame))
		usleep(300);
	if (send(fd, frame + cut, sizeof(frame) - cut, MSG_NOSIGNAL) < 0)
		_exit(0);
	r->sent++;
}

static void be_passt(int fd, struct report *r)
{
	struct pollfd wire = { .fd = fd, .events = POLLIN };

	r->pid = getpid();
	for (unsigned round = 0;; round++) {
		while (poll(&wire, 1, 1) > 0)
			receive_one(fd, r);
		send_one(fd, r);
	}
}

/* This program under another name. */
__attribute__((constructor)) static void maybe_passt(void)
{
	const char *path = getenv(REPORT);
	char args[512];
	int fd = path && !strcmp(program_invocation_short_name, "passt") ? open("/proc/self/cmdline", O_RDONLY) : -1;
	ssize_t n = fd < 0 ? 0 : read(fd, args, sizeof(args) - 1);

	if (fd < 0)
		return;
	args[MAX(n, 0)] = '\0';
	for (char *at = args; at < args + n; at += strlen(at) + 1)
		if (!strcmp(at, "--fd"))
			be_passt(atoi(at + 5), map_report(path));
	_exit(2);
}

/* --- the guest's end --- */

static char folder[] = "/tmp/test_passt.XXXXXX";
static struct report *report;
static bool busy[2][SLOTS];
static uint32_t sent, answered, received, last_received;

static void interface(void)
{
	char self[256], path[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int fd;

	needs_filters();
	cr_assert(n > 0 && mkdtemp(folder));
	self[n] = '\0';
	snprintf(path, sizeof(path), "%s/passt", folder);
	cr_assert_eq(symlink(self, path), 0);
	snprintf(path, sizeof(path), "%s/report", folder);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(fd, 4096), 0);
	close(fd);
	report = map_report(path);
	setenv(REPORT, path, 1);
	snprintf(path, sizeof(path), "%s:%s", folder, getenv("PATH"));
	setenv("PATH", path, 1);
	memset(busy, 0, sizeof(busy));
	prig_make(&virtio_net_row, "user=on,mac=02:00:00:00:00:01,anti_spoof=off,queue_size=32,isolation=process", PRIG_DEATHS);
}

static void end(void)
{
	char path[512];

	front_set_status(prig_front(), 0);
	prig_end();
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
	snprintf(path, sizeof(path), "rm -rf %s", folder);
	cr_assert_eq(system(path), 0);
}

static void send_some(void)
{
	uint32_t len;
	void *cookie;

	while (vd_poll(&p.vd[TX], &cookie, &len) == 1) {
		busy[TX][(uintptr_t)cookie] = false;
		answered++;
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct vd_seg seg = { PRIG_DATA + (uint64_t)i * SLOT_BYTES, HEADER + (i % 4 ? SMALL : LARGE) };
		uint8_t *frame = (uint8_t *)prig_at(seg.addr) + HEADER;

		if (busy[TX][i])
			continue;
		memset(frame - HEADER, 0, HEADER + 18);
		put_le32(frame + 18, ++sent);
		for (unsigned k = 22; k < seg.len - HEADER; k++)
			frame[k] = byte_of(sent, k);
		cr_assert(vd_add(&p.vd[TX], &seg, 1, 0, (void *)(uintptr_t)i));
		busy[TX][i] = true;
	}
	vd_kick(&p.vd[TX]);
}

static void receive_some(void)
{
	uint32_t len, number;
	void *cookie;

	while (vd_poll(&p.vd[RX], &cookie, &len) == 1) {
		unsigned slot = (unsigned)(uintptr_t)cookie;
		const uint8_t *frame = (uint8_t *)prig_at(RX_DATA + slot * 2048) + HEADER;

		busy[RX][slot] = false;
		if (!len)
			continue;
		cr_assert_eq(len, HEADER + SMALL);
		cr_assert(is_sound(frame, SMALL, &number));
		cr_assert(!received || number >= last_received, "frame %u after %u", number, last_received);
		last_received = number;
		received++;
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct vd_seg seg = { RX_DATA + i * 2048, 2048 };

		if (busy[RX][i])
			continue;
		cr_assert(vd_add(&p.vd[RX], &seg, 0, 1, (void *)(uintptr_t)i));
		busy[RX][i] = true;
	}
	vd_kick(&p.vd[RX]);
}

static void run_for(double seconds)
{
	double until = prig_now() + seconds;

	while (prig_now() < until) {
		send_some();
		receive_some();
	}
}

static void warm_up(void)
{
	for (double until = prig_now() + HANG_S; !answered || !received || !report->large;) {
		run_for(0.01);
		cr_assert_lt(prig_now(), until, "%u sent, %u received", answered, received);
	}
}

static void survives(uint64_t features)
{
	unsigned kills = 40;

	interface();
	prig_drive(2, features);
	warm_up();
	for (unsigned i = 0; i < kills; i++) {
		uint32_t was_seen, was_received;
		double at = prig_now();

		kill(prig_worker(), SIGKILL);
		was_seen = report->frames;
		was_received = received;
		while (report->frames <= was_seen + 2 * SLOTS || received <= was_received + SLOTS) {
			run_for(0.001);
			cr_assert_eq(report->torn, 0, "after kill %u the stream is torn", i);
			cr_assert_lt(prig_now() - at, HANG_S, "after kill %u: %u seen, %u received", i, report->frames - was_seen,
				received - was_received);
		}
		run_for(0.001 * (rand() % 5));
	}
	for (double until = prig_now() + HANG_S; answered < sent && prig_now() < until;) {
		uint32_t len;
		void *cookie;

		answered += vd_poll(&p.vd[TX], &cookie, &len) == 1;
		receive_some();
	}
	cr_assert_eq(answered, sent);
	for (double until = prig_now() + HANG_S; report->last < sent && prig_now() < until;)
		usleep(1000);
	cr_assert_eq(report->last, sent, "the last frame is at the other end");
	cr_assert_eq(report->torn, 0);
	end();
}

Test(back_process_passt, kills_leave_the_stream_where_a_frame_begins, .timeout = 600)
{
	srand(31);
	survives(VD_F_EVENT_IDX);
}

Test(back_process_passt, the_same_with_packed_rings, .timeout = 600)
{
	srand(32);
	survives(VD_F_PACKED | VD_F_EVENT_IDX);
}

Test(back_process_passt, a_program_that_ends_takes_the_link_down_in_each_life, .timeout = 300)
{
	uint16_t status = 1;

	interface();
	prig_drive(2, VIRTIO_BIT(NET_F_STATUS));
	warm_up();
	kill(report->pid, SIGKILL);
	for (unsigned i = 0; i < 3; i++) {
		for (double until = prig_now() + HANG_S; status & 1; prig_main(1000)) {
			cr_assert_lt(prig_now(), until);
			front_config_read(prig_front(), offsetof(struct net_config, status), &status, sizeof(status));
		}
		kill(prig_worker(), SIGKILL);
		run_for(0.02);
		front_config_read(prig_front(), offsetof(struct net_config, status), &status, sizeof(status));
	}
	run_for(0.02);
	end();
}
