/*
 * The connection to a vhost-user back end.
 *
 *   AWAY     fd < 0          a timer runs until we connect again; as server we listen
 *   ASKING   asked.request   a message waits for its reply; the timer is its deadline
 *   SETTLED  neither         all that can be done is done: vhost_user_steps.c
 *
 *   AWAY → connected or accepted → steps: ASKING ⇄ SETTLED → closed, hung, nonsense → AWAY → …
 *
 * Replies come in pieces and are put together here; each piece is judged as soon as it can be. What
 * the back end says without being asked, or after the deadline, ends the connection: there is no
 * way to know what it would mean. Sending never waits: who does not read for so long that a
 * socket's buffer is full hangs.
 *
 * Waits between attempts double, and begin anew when a back end was there that got its rings.
 */
#include "devices/virtio/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/rate.h"

enum { SIGNAL_LOOK_MS = 200 };
static const uint64_t ms = 1000000, event_gap = UINT64_C(1000000000);

const struct syscall_row vhost_user_syscalls[] = {
	{ SYSCALL(ppoll, "wait for an answer of the program that serves the device, not for ever") },
	{ SYSCALL(accept4, "the program that serves the device connects") },
	{ SYSCALL(socketpair, "its own channel to us", SYSCALL_ARG_EQ(0, AF_UNIX)) },
	{ SYSCALL(pread64, "what it had in flight when it ended") },
	{ SYSCALL(fcntl, "is what it gave us for that such memory", SYSCALL_ARG_EQ(1, F_GET_SEALS)) },
	SYSCALL_END,
};

static void set_timer(struct vhost_user *vu, uint64_t wait_ms)
{
	loop_timer_set(vu->timer, wait_ms * ms, 0);
}

static void close_fds(struct vhost_user_rx *rx)
{
	while (rx->nfds)
		if (rx->fds[--rx->nfds] >= 0)
			close(rx->fds[rx->nfds]);
}

static void drop(int *fd, struct loop_source **source, struct vhost_user_rx *rx)
{
	loop_remove(*source);
	*source = NULL;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	close_fds(rx);
	rx->got = 0;
}

static void tell(struct vhost_user *vu)
{
	const struct vm_events *events = vu->dev->events;
	uint64_t now = rate_now();

	if (!events || (vu->told_at && now - vu->told_at < event_gap))
		return;
	vu->told_at = now;
	events->post(events->ctx, VM_EVENT_DEVICE_ERROR, vu->event);
}

/* Until the next attempt; as server there is none. */
static void wait_longer(struct vhost_user *vu)
{
	set_timer(vu, vu->listen_fd < 0 ? vu->again_ms : 0);
	vu->again_ms = MIN(2 * vu->again_ms, (uint32_t)VHOST_USER_AGAIN_MAX_MS);
}

void vhost_user_lose(struct vhost_user *vu, const char *why)
{
	bool served = vhost_user_ready(vu);

	if (vu->fd < 0)
		return;
	vhost_user_lost_rings(vu);
	drop(&vu->fd, &vu->source, &vu->rx);
	drop(&vu->own_fd, &vu->own_source, &vu->own_rx);
	vu->asked.head.request = VHOST_USER_NONE;
	if (vu->starting) {
		error_set(vu->starting, EPROTO, "the program there %s; is it a back end of this kind?", why);
		return;
	}
	if (served)
		log_info("%s: the program at %s %s", vu->dev->id, vu->path, why);
	else if (!vu->told_bad)
		log_warn("%s: the program that is at %s now %s; looking again and again", vu->dev->id, vu->path, why);
	vu->told_bad |= !served;
	vu->away = true;
	if (served)
		vu->again_ms = VHOST_USER_AGAIN_MIN_MS;
	tell(vu);
	if (vu->listen_source)
		loop_modify(vu->listen_source, LOOP_READ);
	wait_longer(vu);
}

bool vhost_user_send(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds)
{
	if (vu->fd < 0)
		return false;
	if (unix_socket_send(vu->fd, m, vhost_user_length(m), fds, nfds) == 0)
		return true;
	vhost_user_lose(vu, "does not take what is sent to it");
	return false;
}

bool vhost_user_ask(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds,
	vhost_user_take_fn *take)
{
	if (!vhost_user_send(vu, m, fds, nfds))
		return false;
	vu->asked = *m;
	vu->take = take;
	vu->asked_until = rate_now() + VHOST_USER_REPLY_MS * ms;
	set_timer(vu, VHOST_USER_REPLY_MS);
	return true;
}

/* More of a message. 1: its header is whole now, 2: all of it, 0: not yet; -errno: no more. */
static int receive(int fd, struct vhost_user_rx *rx)
{
	size_t whole = rx->got < sizeof(rx->msg.head) ? sizeof(rx->msg.head) : vhost_user_length(&rx->msg);
	ssize_t n = unix_socket_receive(fd, (uint8_t *)&rx->msg + rx->got, whole - rx->got, rx->fds, &rx->nfds);

	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	rx->got += (size_t)n;
	if (rx->got < whole)
		return 0;
	return whole > sizeof(rx->msg.head) ? 2 : 1;
}

static void answered(struct vhost_user *vu)
{
	struct vhost_user_rx *rx = &vu->rx;
	const char *wrong = NULL;

	vu->rx.got = 0;
	set_timer(vu, 0);
	if (vhost_user_reply(&rx->msg, &vu->asked, rx->nfds) < 0)
		wrong = "gives an answer that makes no sense";
	vu->asked.head.request = VHOST_USER_NONE;
	if (!wrong)
		wrong = vu->take(vu, &rx->msg);
	close_fds(rx);
	if (wrong) {
		vhost_user_lose(vu, wrong);
		return;
	}
	vu->done |= vu->asked_step;
	vu->asked_step = 0;
	vhost_user_advance(vu);
}

static void on_readable(void *ctx, unsigned events)
{
	struct vhost_user *vu = ctx;
	int r = receive(vu->fd, &vu->rx);

	(void)events;
	if (r == 1 && vhost_user_reply_header(&vu->rx.msg.head, vu->asked.head.request) < 0)
		vhost_user_lose(vu, "says what it was not asked");
	else if (r == 2 || (r == 1 && vu->rx.msg.head.size == 0))
		answered(vu);
	else if (r < 0)
		vhost_user_lose(vu, r == -ECONNRESET ? "has closed the connection" : "cannot be heard");
}

void vhost_user_settle(struct vhost_user *vu)
{
	while (vu->fd >= 0 && vu->asked.head.request != VHOST_USER_NONE) {
		struct pollfd p = { .fd = vu->fd, .events = POLLIN };
		uint64_t now = rate_now(), left = vu->asked_until > now ? vu->asked_until - now : 0;
		const struct timespec wait = { (time_t)(left / 1000000000), (long)(left % 1000000000) };

		if (!left)
			vhost_user_lose(vu, "does not answer");
		else if (ppoll(&p, 1, &wait, NULL) == 1)
			on_readable(vu, LOOP_READ);
	}
}

/* A request of the back end's own; section "Back-end message types". */
static void own_request(struct vhost_user *vu)
{
	const struct vhost_user_header h = vu->own_rx.msg.head;
	bool known = h.request == VHOST_USER_BACKEND_CONFIG_CHANGE && !vu->own_rx.nfds;
	struct vhost_user_msg ack;

	vu->own_rx.got = 0;
	close_fds(&vu->own_rx);
	if (h.flags & VHOST_USER_NEED_REPLY) {
		vhost_user_begin(&ack, h.request, sizeof(ack.body.u64));
		ack.head.flags |= VHOST_USER_REPLY;
		ack.body.u64 = known ? 0 : EOPNOTSUPP;
		if (unix_socket_send(vu->own_fd, &ack, vhost_user_length(&ack), NULL, 0) < 0) {
			vhost_user_lose(vu, "does not take the answers to what it asks");
			return;
		}
	}
	if (known) {
		vu->config_stale = true;
		vhost_user_advance(vu);
	}
}

static void on_own(void *ctx, unsigned events)
{
	struct vhost_user *vu = ctx;
	int r = receive(vu->own_fd, &vu->own_rx);

	(void)events;
	if (r == 1 && vhost_user_backend_header(&vu->own_rx.msg.head) < 0)
		r = -EPROTO;
	if (r == 2 || (r == 1 && vu->own_rx.msg.head.size == 0))
		own_request(vu);
	else if (r < 0)
		vhost_user_lose(vu, "spoils its channel to us");
}

int vhost_user_own_channel(struct vhost_user *vu, int *ret_theirs)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
		return -errno;
	r = loop_add(vu->loop, pair[0], LOOP_READ, on_own, vu, &vu->own_source);
	if (r < 0) {
		close(pair[0]);
		close(pair[1]);
		return r;
	}
	vu->own_fd = pair[0];
	*ret_theirs = pair[1];
	return 0;
}

/* Takes the fd. */
static void adopt(struct vhost_user *vu, int fd)
{
	vu->fd = fd;
	if (vu->listen_source)
		loop_modify(vu->listen_source, 0);
	set_timer(vu, 0);
	vhost_user_steps_begin(vu);
	if (loop_add(vu->loop, fd, LOOP_READ, on_readable, vu, &vu->source) < 0)
		vhost_user_lose(vu, "cannot be watched");
	else
		vhost_user_advance(vu);
}

static void look_again(struct vhost_user *vu)
{
	int fd = unix_place_connect(&vu->place);

	if (fd >= 0) {
		adopt(vu, fd);
		return;
	}
	if (!vu->told)
		log_info("%s: nobody serves at %s (%s); looking again and again", vu->dev->id, vu->path,
			strerror(-fd));
	vu->told = true;
	wait_longer(vu);
}

static void on_timer(void *ctx)
{
	struct vhost_user *vu = ctx;

	if (vu->fd >= 0)
		vhost_user_lose(vu, "does not answer");
	else if (vu->listen_fd < 0)
		look_again(vu);
}

static void on_client(void *ctx, unsigned events)
{
	struct vhost_user *vu = ctx;
	int fd = accept4(vu->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd >= 0 && vu->fd >= 0)
		close(fd);
	else if (fd >= 0)
		adopt(vu, fd);
}

/* Signals are blocked by now (vm.c) and are for main's loop, which does not run yet. */
static bool asked_to_end(void)
{
	sigset_t set;

	return sigpending(&set) == 0 &&
		(sigismember(&set, SIGINT) || sigismember(&set, SIGTERM) || sigismember(&set, SIGHUP));
}

static int wait_for_client(struct vhost_user *vu, struct error *err)
{
	struct pollfd p = { .fd = vu->listen_fd, .events = POLLIN };
	int fd = -1;

	log_notice("%s: waiting for the program that serves it to connect to %s", vu->dev->id, vu->path);
	while (fd < 0) {
		if (asked_to_end())
			return error_set(err, EINTR, "ended while waiting for the program that serves it to connect");
		if (poll(&p, 1, SIGNAL_LOOK_MS) == 1)
			fd = accept4(vu->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	return fd;
}

static const char *connect_remedy(int r)
{
	switch (r) {
	case -ENOENT:
		return "no such socket; start the program that serves it first, or say vhost_mode=server";
	case -ECONNREFUSED:
		return "nobody listens there; start the program that serves it first, or give the path of its socket";
	case -EACCES:
		return "permission denied; let this user write to the socket";
	default:
		return strerror(-r);
	}
}

int vhost_user_meet(struct vhost_user *vu, struct error *err)
{
	int fd, r = loop_timer_add(vu->loop, on_timer, vu, &vu->timer);

	if (r == 0 && vu->listen_fd >= 0)
		r = loop_add(vu->loop, vu->listen_fd, LOOP_READ, on_client, vu, &vu->listen_source);
	if (r < 0)
		return error_set(err, -r, "it cannot be watched: %s", strerror(-r));
	fd = vu->listen_fd >= 0 ? wait_for_client(vu, err) : unix_socket_connect(vu->path);
	if (fd < 0)
		return vu->listen_fd >= 0 ? fd : error_set(err, -fd, "%s", connect_remedy(fd));
	vu->starting = err;
	adopt(vu, fd);
	vhost_user_settle(vu);
	vu->starting = NULL;
	if (vu->fd < 0)
		return -EPROTO;
	vu->met = true;
	return 0;
}
