/*
 * A vhost-user back end that says anything: the input goes to the front end in pieces, as replies
 * and, once it was given that channel, as requests of the back end's own; any piece may bring a
 * descriptor. The front end meets it, drives a queue, stops it and resets the device; whatever
 * comes back from it, it must end in time, and with every descriptor that it was given closed. The
 * same bytes are looked at as in-flight buffers.
 */
#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/fuzz/program.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

enum { QUEUE = 16, OWN = 0x40, WITH_FD = 0x80, LENGTH = 0x3f, CHANNEL_MS = 20 };

struct peer {
	int listen_fd, memfd;
	char path[64];
	const uint8_t *data;
	size_t size;
};

static void say(int fd, const void *data, size_t len, int with)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec iov = { (void *)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (with >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ CMSG_LEN(sizeof(with)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &with, sizeof(with));
	}
	(void)!sendmsg(fd, &msg, MSG_NOSIGNAL);
}

/*
 * What the front end sends; of its descriptors the first is kept when there is none: it may be the
 * channel.
 */
static bool hear(int fd, int *own)
{
	uint8_t bytes[4096];
	int fds[UNIX_SOCKET_FDS];
	unsigned n = 0;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t r = poll(&p, 1, 0) == 1 ? unix_socket_receive(fd, bytes, sizeof(bytes), fds, &n) : -EAGAIN;
	int type;
	socklen_t len = sizeof(type);

	while (n) {
		n--;
		if (*own < 0 && getsockopt(fds[n], SOL_SOCKET, SO_TYPE, &type, &len) == 0)
			*own = fds[n];
		else
			close(fds[n]);
	}
	return r > 0;
}

/* The channel is on its way, or the front end does not get that far. */
static void await_channel(int fd, int *own)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (*own < 0 && poll(&p, 1, CHANNEL_MS) == 1 && hear(fd, own))
		;
}

/* What was said there is to be heard before the connection ends. */
static void await_heard(int own)
{
	int left = 1;

	for (unsigned i = 0; i < CHANNEL_MS && left; i++) {
		if (ioctl(own, SIOCOUTQ, &left) < 0)
			return;
		usleep(100);
	}
}

/* Says it all at once: the answers to questions that were not asked yet wait in the socket. */
static void *speak(void *arg)
{
	const struct peer *peer = arg;
	int fd = accept(peer->listen_fd, NULL, NULL), own = -1;
	const uint8_t *at = peer->data, *end = at + peer->size;

	MUST(fd >= 0);
	/* Nobody comes back. */
	close(peer->listen_fd);
	while (end - at > 1) {
		uint8_t kind = *at++;
		size_t len = MIN((size_t)(kind & LENGTH) + 1, (size_t)(end - at));

		hear(fd, &own);
		if (kind & OWN)
			await_channel(fd, &own);
		say((kind & OWN) && own >= 0 ? own : fd, at, len, kind & WITH_FD ? peer->memfd : -1);
		at += len;
	}
	if (own >= 0)
		await_heard(own);
	shutdown(fd, SHUT_WR);
	for (struct pollfd p = { .fd = fd, .events = POLLIN }; hear(fd, &own) || !(p.revents & POLLHUP);)
		poll(&p, 1, 100);
	if (own >= 0)
		close(own);
	close(fd);
	return NULL;
}

static void look(const uint8_t *data, size_t size)
{
	struct queue_setup q = { .size = QUEUE };
	struct vhost_user_header h = { 0 };

	memcpy(&h, data, MIN(size, sizeof(h)));
	(void)!vhost_user_backend_header(&h);
	for (unsigned request = 0; request < 64; request++)
		(void)!vhost_user_reply_header(&h, (enum vhost_user_request)request);
	if (vhost_user_look_split(&q, data, size, (uint16_t)size) >= 0)
		MUST(q.next_avail == q.next_used);
}

static uint16_t flags_at(void *ctx, unsigned offset)
{
	MUST(offset < QUEUE);
	return (uint16_t)(*(size_t *)ctx * offset);
}

static void look_packed(const uint8_t *data, size_t size)
{
	struct queue_setup q = { .size = QUEUE, .features = VIRTIO_BIT(VIRTIO_F_RING_PACKED) };

	if (vhost_user_look_packed(&q, data, size, flags_at, &size) >= 0)
		MUST((q.next_avail & 0x7fff) < QUEUE && (q.next_used & 0x7fff) < QUEUE);
}

static void stop_loop(void *ctx)
{
	loop_stop(ctx);
}

static void use(struct rig *rig)
{
	struct loop *loop = worker_loop(rig->workers[0]);
	struct front *f = rig_front(rig);

	rig_drive(rig, 1, f->dev->offered);
	for (unsigned i = 0; i < 4; i++) {
		MUST(loop_post(loop, stop_loop, loop) == 0);
		MUST(loop_run(loop) == 0);
	}
	front_stop(f);
	front_restart(f);
	front_set_status(f, 0);
	rig_main(rig);
}

static void setup(struct peer *peer)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(peer->path, sizeof(peer->path), "/tmp/fuzz-vhost-user-%d", getpid());
	strcpy(addr.sun_path, peer->path);
	unlink(peer->path);
	peer->listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
	peer->memfd = memfd_create("in-flight", MFD_ALLOW_SEALING);
	MUST(bind(peer->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(peer->listen_fd, 1) == 0);
	MUST(ftruncate(peer->memfd, 1 << 16) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct mem_config shared = { .shared = true };
	struct peer peer = { .data = data, .size = size };
	struct blk_options o = { .num_queues = 1, .poll_us = BLK_POLL_US, .virtio.queue_size = QUEUE,
		.virtio.packed = true };
	pthread_t thread;
	struct rig rig;

	log_level = LOG_ERROR;
	look(data, size);
	look_packed(data, size);
	setup(&peer);
	MUST(pwrite(peer.memfd, data, MIN(size, (size_t)1 << 16), 0) >= 0);
	rig_init(&rig);
	rig.root->ops->destroy(rig.root);
	mem_destroy(rig.mem);
	MUST(mem_create(&rig.mem, NULL) == 0 && mem_add_ram(rig.mem, 0, RIG_RAM, &shared, &rig.err) == 0);
	rig_make_root(&rig);
	rig.env.id = "_disk0";
	o.vhost_user.socket = peer.path;
	MUST(pthread_create(&thread, NULL, speak, &peer) == 0);
	if (virtio_blk_row.create(&rig.dev, &rig.env, &o, &rig.err) == 0) {
		MUST(rig.root->ops->start(rig.root, &rig.err) == 0);
		use(&rig);
	} else {
		MUST(rig.err.text[0]);
		rig.dev = NULL;
	}
	rig_fini(&rig);
	pthread_join(thread, NULL);
	close(peer.memfd);
	unlink(peer.path);
	return 0;
}
