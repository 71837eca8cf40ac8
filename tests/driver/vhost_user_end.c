/* See vhost_user_end.h. The child is one thread: it polls its socket and the kicks of its rings. */
#include "tests/driver/vhost_user_end_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTOR = 512, INFLIGHT = 64 };
enum { F_SEG_MAX = 2, F_FLUSH = 9, F_CONFIG_WCE = 11, F_MQ = 12, T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

void end_must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "back end: %s: %s\n", what, strerror(errno));
	abort();
}

uint64_t end_features(void)
{
	return VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(F_SEG_MAX) |
		VIRTIO_BIT(F_FLUSH) | VIRTIO_BIT(F_CONFIG_WCE) | VIRTIO_BIT(F_MQ) |
		VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES);
}

uint64_t end_protocol(void)
{
	return VIRTIO_BIT(VHOST_USER_PROTOCOL_MQ) | VIRTIO_BIT(VHOST_USER_PROTOCOL_REPLY_ACK) |
		VIRTIO_BIT(VHOST_USER_PROTOCOL_BACKEND_REQ) | VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG) |
		VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD) | VIRTIO_BIT(VHOST_USER_PROTOCOL_RESET_DEVICE) |
		VIRTIO_BIT(VHOST_USER_PROTOCOL_MEM_SLOTS);
}

static uint32_t any(struct end *e)
{
	e->random = e->random * 1664525 + 1013904223;
	return e->random >> 8;
}

void *end_find(struct end *e, uint64_t addr, uint64_t len, bool user)
{
	for (unsigned i = 0; i < e->nregions; i++) {
		const struct vhost_user_region *r = &e->regions[i].at;
		uint64_t base = user ? r->user : r->guest;

		if (addr >= base && len <= r->size && addr - base <= r->size - len)
			return e->regions[i].host + (addr - base);
	}
	end_must(false, "an address that it was not told of");
	return NULL;
}

void end_die_at(struct end *e, enum end_death where)
{
	if (e->c.death == where && e->requests >= e->c.dies_after)
		raise(SIGKILL);
}

static bool is_packed(const struct end *e)
{
	return e->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

/* --- requests --- */

static void flat(struct end *e, struct end_ring *q, uint16_t head, struct end_desc out[PENDING], unsigned *ret_n)
{
	struct end_desc *table = q->desc, d = table[head];
	unsigned n = 0;

	if (d.flags & INDIRECT) {
		table = end_find(e, d.addr, d.len, false);
		d = table[0];
	}
	for (;; d = table[d.next]) {
		end_must(n < PENDING, "a chain that never ends");
		out[n++] = d;
		if (!(d.flags & NEXT))
			break;
	}
	*ret_n = n;
}

uint32_t end_do_disk(struct end *e, const struct end_desc *d, unsigned n)
{
	uint8_t *status = end_find(e, d[n - 1].addr, d[n - 1].len, false);
	const uint8_t *header = end_find(e, d[0].addr, 16, false);
	uint32_t type = get_le32(header), written = 1;
	uint64_t at = get_le64(header + 8) * SECTOR;

	*status = 0;
	for (unsigned i = 1; i + 1 < n; i++) {
		void *data = end_find(e, d[i].addr, d[i].len, false);
		ssize_t r = type == T_IN ? pread(e->disk, data, d[i].len, (off_t)at) : pwrite(e->disk, data, d[i].len, (off_t)at);

		if (r != (ssize_t)d[i].len)
			*status = 1;
		written += type == T_IN ? d[i].len : 0;
		at += d[i].len;
	}
	if (type != T_IN && type != T_OUT && type != T_FLUSH)
		*status = 2;
	return written;
}

void end_call(const struct end_ring *q)
{
	const uint64_t one = 1;

	end_must(write(q->call, &one, sizeof(one)) == sizeof(one), "call");
}

static struct vhost_user_split_desc *state_of(struct end_ring *q, uint16_t head)
{
	return q->region ? &q->region->desc[head] : NULL;
}

/* Section "Inflight I/O tracking", in its order; the driver may see idx at once. */
static void use(struct end *e, struct end_ring *q, uint16_t head, uint32_t written)
{
	uint16_t *idx = (uint16_t *)(q->used + 2);
	uint8_t *elem = q->used + 4 + 8 * (*idx % q->num);
	struct vhost_user_split_desc *s = state_of(q, head);

	end_die_at(e, END_DIES_DONE);
	if (s) {
		s->next = q->region->last_batch_head;
		q->region->last_batch_head = head;
	}
	put_le32(elem, head);
	put_le32(elem + 4, written);
	__atomic_store_n(idx, (uint16_t)(*idx + 1), __ATOMIC_SEQ_CST);
	end_die_at(e, END_DIES_USED);
	if (s) {
		__atomic_store_n(&s->inflight, 0, __ATOMIC_SEQ_CST);
		q->region->used_idx = *idx;
	}
	end_call(q);
}

static void complete_one(struct end *e, struct end_ring *q)
{
	unsigned i = any(e) % q->npending;
	uint16_t head = q->pending[i];
	struct end_desc d[PENDING];
	unsigned n;

	if (is_packed(e)) {
		end_packed_complete(e, q, i);
		return;
	}
	q->pending[i] = q->pending[--q->npending];
	flat(e, q, head, d, &n);
	use(e, q, head, end_do_disk(e, d, n));
}

static bool pop(struct end *e, struct end_ring *q)
{
	struct vhost_user_split_desc *s;
	uint16_t head;

	if (is_packed(e))
		return end_packed_pop(q);
	if (q->last_avail == __atomic_load_n(&q->avail[1], __ATOMIC_SEQ_CST))
		return false;
	head = q->avail[2 + q->last_avail % q->num];
	s = state_of(q, head);
	if (s) {
		s->counter = ++q->counter;
		__atomic_store_n(&s->inflight, 1, __ATOMIC_SEQ_CST);
	}
	q->last_avail++;
	q->pending[q->npending++] = head;
	return true;
}

static void serve_disk(struct end *e, struct end_ring *q)
{
	while (pop(e, q)) {
		e->requests++;
		end_die_at(e, END_DIES_POPPED);
		if (q->npending > e->c.depth)
			complete_one(e, q);
	}
	/* Some stay behind, for others to overtake. */
	while (q->npending && !(e->c.depth && any(e) % 4 == 0))
		complete_one(e, q);
}

/* Each frame that is sent comes back in a buffer for receiving, if there is one. */
static void serve_net(struct end *e, struct end_ring *rx, struct end_ring *tx)
{
	while (tx->last_avail != __atomic_load_n(&tx->avail[1], __ATOMIC_SEQ_CST)) {
		struct end_desc from[PENDING], to[PENDING];
		uint16_t head = tx->avail[2 + tx->last_avail++ % tx->num], buffer;
		unsigned n, m;

		flat(e, tx, head, from, &n);
		if (rx->desc && rx->enabled && rx->last_avail != __atomic_load_n(&rx->avail[1], __ATOMIC_SEQ_CST)) {
			buffer = rx->avail[2 + rx->last_avail++ % rx->num];
			flat(e, rx, buffer, to, &m);
			end_must(n == 1 && m == 1 && from[0].len <= to[0].len, "frames in one piece");
			memcpy(end_find(e, to[0].addr, from[0].len, false), end_find(e, from[0].addr, from[0].len, false), from[0].len);
			use(e, rx, buffer, from[0].len);
		}
		use(e, tx, head, 0);
		e->requests++;
	}
}

static void serve(struct end *e, unsigned i)
{
	struct end_ring *q = &e->ring[i];

	if (q->kick < 0 || !q->enabled || !q->desc)
		return;
	if (e->c.disk)
		serve_disk(e, q);
	else if (i % 2 && e->ring[i - 1].kick >= 0)
		serve_net(e, &e->ring[i - 1], q);
}

/* Section "Inflight I/O tracking": when reconnecting. */
static void recover(struct end *e, struct end_ring *q, unsigned i)
{
	uint16_t used = *(uint16_t *)(q->used + 2);
	struct vhost_user_split_region *r;

	q->npending = 0;
	if (is_packed(e)) {
		end_must(e->inflight, "a packed ring and nowhere to keep track of it");
		end_packed_recover(q, e->inflight + e->area.size / e->area.num_queues * i, e->area.queue_size);
		return;
	}
	if (!e->inflight || !(e->protocol & VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD)))
		return;
	r = q->region = (void *)(e->inflight + e->area.size / e->area.num_queues * i);
	if (!r->version) {
		r->version = 1;
		r->desc_num = e->area.queue_size;
		r->used_idx = used;
		return;
	}
	for (uint16_t at = r->last_batch_head; r->used_idx != used; r->used_idx++) {
		r->desc[at].inflight = 0;
		at = r->desc[at].next;
	}
	for (unsigned h = 0; h < q->num; h++)
		if (r->desc[h].inflight) {
			q->pending[q->npending++] = (uint16_t)h;
			q->counter = MAX(q->counter, r->desc[h].counter);
		}
	q->last_avail = (uint16_t)(used + q->npending);
}

/* --- messages --- */

static int take_fd(struct end *e)
{
	end_must(e->nfds > 0, "a descriptor is missing");
	return e->fds[--e->nfds];
}

static void say(struct end *e, const void *data, size_t len)
{
	const uint8_t *at = data;

	for (size_t done = 0; done < len;) {
		size_t n = e->c.manners == END_PIECES ? 1 : len;
		ssize_t r = send(e->sock, at + done, n, MSG_NOSIGNAL);

		if (r <= 0)
			_exit(0);
		done += (size_t)r;
		if (e->c.manners == END_PIECES)
			usleep(50);
	}
}

static void misbehave(struct end *e, struct vhost_user_msg *m)
{
	uint8_t noise[300];

	switch (e->c.manners) {
	case END_HANGS:
		pause();
		break;
	case END_GARBLES:
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (uint8_t)any(e);
		say(e, noise, sizeof(noise));
		pause();
		break;
	case END_LIES:
		m->head.size = UINT32_MAX;
		say(e, m, sizeof(m->head) + 8);
		pause();
		break;
	case END_WRONG:
		m->head.request++;
		say(e, m, vhost_user_length(m));
		pause();
		break;
	default:
		_exit(0);
	}
}

static void reply(struct end *e, struct vhost_user_msg *m, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec iov = { m, 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control) };

	m->head.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	if (e->c.bad_request == m->head.request && e->c.manners != END_GOOD && e->c.manners != END_PIECES)
		misbehave(e, m);
	if (fd < 0) {
		say(e, m, vhost_user_length(m));
		return;
	}
	iov.iov_len = vhost_user_length(m);
	*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(fd));
	end_must(sendmsg(e->sock, &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len, "sendmsg");
	close(fd);
}

static void reply_u64(struct end *e, struct vhost_user_msg *m, uint64_t value)
{
	m->head.size = sizeof(value);
	m->body.u64 = value;
	reply(e, m, -1);
}

static void add_region(struct end *e, struct vhost_user_region r, int fd)
{
	struct end_region *new = &e->regions[e->nregions++];

	new->at = r;
	new->host = mmap(NULL, r.offset + r.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	end_must(new->host != MAP_FAILED, "guest memory");
	new->host += r.offset;
	close(fd);
}

static void give_config(struct end *e, struct vhost_user_msg *m)
{
	uint8_t all[VIRTIO_CONFIG_MAX] = { 0 };
	struct vhost_user_config *c = &m->body.config;

	put_le64(all, e->sectors);
	put_le32(all + 12, 64);
	put_le32(all + 20, SECTOR);
	all[32] = e->wce;
	put_le16(all + 34, (uint16_t)e->c.queues);
	end_must(c->offset + c->size <= sizeof(all), "config range");
	memcpy(c->bytes, all + c->offset, c->size);
	reply(e, m, -1);
}

static void give_inflight(struct end *e, struct vhost_user_msg *m)
{
	uint64_t per = vhost_user_inflight_bytes(m->body.inflight.queue_size, true);
	int fd = memfd_create("inflight", 0);

	per = align_up(per, INFLIGHT);
	m->body.inflight.size = per * m->body.inflight.num_queues;
	m->body.inflight.offset = 0;
	end_must(fd >= 0 && ftruncate(fd, (off_t)m->body.inflight.size) == 0, "in-flight buffer");
	reply(e, m, fd);
}

static void take_inflight(struct end *e, const struct vhost_user_msg *m)
{
	int fd = take_fd(e);

	e->area = m->body.inflight;
	e->inflight = mmap(NULL, e->area.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)e->area.offset);
	end_must(e->inflight != MAP_FAILED, "in-flight buffer");
	close(fd);
}

static void stop(struct end *e, struct vhost_user_msg *m)
{
	struct end_ring *q = &e->ring[m->body.state.index];

	while (q->npending && !e->c.slow_stop)
		complete_one(e, q);
	m->body.state.num = is_packed(e) ? end_packed_base(q) : q->last_avail;
	reply(e, m, -1);
	while (q->npending)
		complete_one(e, q);
	if (q->kick >= 0)
		close(q->kick);
	q->kick = -1;
}

static void of_ring(struct end *e, struct vhost_user_msg *m)
{
	unsigned i = m->body.state.index;
	struct end_ring *q = &e->ring[i];

	end_must(i < e->c.queues, "a queue that it does not have");
	switch (m->head.request) {
	case VHOST_USER_SET_VRING_NUM:
		q->num = m->body.state.num;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		q->desc = end_find(e, m->body.addr.desc, 16 * q->num, true);
		q->avail = end_find(e, m->body.addr.avail, is_packed(e) ? 4 : 6 + 2 * q->num, true);
		q->used = end_find(e, m->body.addr.used, is_packed(e) ? 4 : 6 + 8 * q->num, true);
		break;
	case VHOST_USER_SET_VRING_BASE:
		q->last_avail = (uint16_t)m->body.state.num;
		end_packed_set_base(q, m->body.state.num);
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		q->enabled = m->body.state.num;
		break;
	case VHOST_USER_SET_VRING_CALL:
		q->call = take_fd(e);
		break;
	case VHOST_USER_SET_VRING_KICK:
		q->kick = take_fd(e);
		recover(e, q, i);
		break;
	default:
		break;
	}
}

static void of_memory(struct end *e, struct vhost_user_msg *m)
{
	if (m->head.request == VHOST_USER_ADD_MEM_REG) {
		add_region(e, m->body.slot.region, take_fd(e));
		return;
	}
	e->nregions = 0;
	for (unsigned i = 0; i < m->body.memory.n; i++)
		add_region(e, m->body.memory.region[i], e->fds[i]);
	e->nfds = 0;
}

/* Those with a reply of their own. False: another. */
static bool answer(struct end *e, struct vhost_user_msg *m)
{
	switch (m->head.request) {
	case VHOST_USER_GET_FEATURES:
		reply_u64(e, m, e->c.features);
		return true;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		reply_u64(e, m, e->c.protocol);
		return true;
	case VHOST_USER_GET_QUEUE_NUM:
		reply_u64(e, m, e->c.queues);
		return true;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		reply_u64(e, m, REGIONS);
		return true;
	case VHOST_USER_GET_CONFIG:
		give_config(e, m);
		return true;
	case VHOST_USER_GET_INFLIGHT_FD:
		give_inflight(e, m);
		return true;
	case VHOST_USER_GET_VRING_BASE:
		stop(e, m);
		return true;
	default:
		return false;
	}
}

static void obey(struct end *e, struct vhost_user_msg *m)
{
	switch (m->head.request) {
	case VHOST_USER_SET_FEATURES:
		end_must(!(m->body.u64 & ~e->c.features), "features that were not offered");
		e->features = m->body.u64;
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		e->protocol = m->body.u64;
		break;
	case VHOST_USER_SET_CONFIG:
		end_must(m->body.config.offset == 32 && m->body.config.size == 1, "a write to what is not written to");
		e->wce = m->body.config.bytes[0];
		break;
	case VHOST_USER_SET_INFLIGHT_FD:
		take_inflight(e, m);
		break;
	case VHOST_USER_SET_BACKEND_REQ_FD:
		e->own = take_fd(e);
		break;
	case VHOST_USER_SET_MEM_TABLE:
	case VHOST_USER_ADD_MEM_REG:
		of_memory(e, m);
		break;
	case VHOST_USER_SET_OWNER:
	case VHOST_USER_RESET_DEVICE:
		break;
	default:
		of_ring(e, m);
	}
}

static void hear_all(struct end *e, void *data, size_t len)
{
	union {
		char bytes[CMSG_SPACE(FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control) };
	ssize_t n = len ? recvmsg(e->sock, &msg, MSG_WAITALL) : 0;
	struct cmsghdr *c = len ? CMSG_FIRSTHDR(&msg) : NULL;

	if (n != (ssize_t)len)
		_exit(0); /* the front end is gone */
	if (c) {
		e->nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(e->fds, CMSG_DATA(c), e->nfds * sizeof(int));
	}
}

static void hear(struct end *e)
{
	struct vhost_user_msg m;
	bool sure;

	e->nfds = 0;
	hear_all(e, &m.head, sizeof(m.head));
	end_must(m.head.size <= sizeof(m.body) && (m.head.flags & VHOST_USER_VERSION_MASK) == VHOST_USER_VERSION, "a header");
	hear_all(e, &m.body, m.head.size);
	if (answer(e, &m))
		return;
	sure = m.head.flags & VHOST_USER_NEED_REPLY;
	obey(e, &m);
	end_must(!e->nfds || m.head.request == VHOST_USER_SET_VRING_ERR, "a descriptor that nobody wants");
	if (sure)
		reply_u64(e, &m, 0);
}

static void grow(struct end *e)
{
	struct vhost_user_msg m;
	uint64_t count;

	end_must(read(e->c.change_fd, &count, sizeof(count)) == sizeof(count), "change");
	e->sectors += 8;
	end_must(ftruncate(e->disk, (off_t)e->sectors * SECTOR) == 0, "ftruncate");
	vhost_user_begin(&m, (enum vhost_user_request)VHOST_USER_BACKEND_CONFIG_CHANGE, 0);
	end_must(send(e->own, &m, vhost_user_length(&m), 0) == (ssize_t)vhost_user_length(&m), "its channel");
}

static void run(struct end *e)
{
	for (;;) {
		struct pollfd p[QUEUES + 2] = { { .fd = e->sock, .events = POLLIN },
			{ .fd = e->c.change_fd > 0 ? e->c.change_fd : -1, .events = POLLIN } };
		uint64_t count;

		for (unsigned i = 0; i < QUEUES; i++)
			p[2 + i] = (struct pollfd){ .fd = e->ring[i].enabled ? e->ring[i].kick : -1, .events = POLLIN };
		poll(p, QUEUES + 2, e->c.depth ? 1 : -1);
		if (p[0].revents)
			hear(e);
		if (p[1].revents)
			grow(e);
		for (unsigned i = 0; i < QUEUES; i++) {
			if (p[2 + i].revents && read(e->ring[i].kick, &count, sizeof(count)) < 0)
				continue; /* it belongs to a ring that was stopped */
			serve(e, i);
		}
	}
}

static int open_socket(const struct end_config *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->path);
	end_must(fd >= 0, "socket");
	if (c->connects)
		return fd;
	unlink(c->path);
	end_must(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 1) == 0, c->path);
	return fd;
}

static int join(const struct end_config *c, int fd)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->path);
	if (!c->connects)
		return accept(fd, NULL, NULL);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		usleep(1000);
	return fd;
}

/* Listening already, or not connected yet. */
static void serve_one(const struct end_config *config, int fd) __attribute__((noreturn));
static void serve_one(const struct end_config *config, int fd)
{
	struct end *e = calloc(1, sizeof(*e));
	struct stat st;

	end_must(e, "memory");
	e->c = *config;
	e->random = config->seed;
	e->wce = 1;
	for (unsigned i = 0; i < QUEUES; i++)
		e->ring[i] = (struct end_ring){ .kick = -1, .call = -1 };
	if (config->disk) {
		e->disk = open(config->disk, O_RDWR | O_CLOEXEC);
		end_must(e->disk >= 0 && fstat(e->disk, &st) == 0, config->disk);
		e->sectors = (uint64_t)st.st_size / SECTOR;
	}
	e->sock = join(config, fd);
	end_must(e->sock >= 0, "no front end");
	run(e);
	_exit(0);
}

void end_run(const struct end_config *config)
{
	int fd = open_socket(config), status;
	pid_t pid;

	while ((pid = fork()) != 0) {
		end_must(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
		end_must(WIFEXITED(status) && !WEXITSTATUS(status), "one of us failed");
		if (config->connects) {
			close(fd);
			fd = open_socket(config);
		}
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	serve_one(config, fd);
}

pid_t end_start(const struct end_config *config)
{
	int fd = open_socket(config);
	pid_t pid = fork();

	end_must(pid >= 0, "fork");
	if (pid) {
		close(fd);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The other ends of our own sockets: the front end must see that we are gone. */
	for (int i = STDERR_FILENO + 1; i < 256; i++)
		if (i != fd && i != config->change_fd)
			close(i);
	serve_one(config, fd);
}

void end_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	end_wait(pid);
}

void end_wait(pid_t pid)
{
	int status;

	end_must(waitpid(pid, &status, 0) == pid, "waitpid");
	end_must(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0, "it failed");
}
