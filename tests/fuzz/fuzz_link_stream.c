/*
 * A helper program (passt) that answers anything: the input goes through a socket in pieces, each a
 * length byte and so many bytes, and the link must hand out frames no longer than there is room,
 * none outside the limits of a frame, or go down; frames of ours go the other way meanwhile, to a
 * peer that reads now and then.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/host/link_stream.h"
#include "tests/fuzz/program.h"
#include "vmm/log.h"

struct world {
	struct link *link;
	struct loop *loop;
	int peer;
	size_t room;
	unsigned downs;
	uint8_t *buffer; /* of `room` bytes and no more: the sanitizer sees one too many */
};

static void on_readable(void *ctx)
{
	struct world *w = ctx;
	struct iovec iov[2] = { { w->buffer, LINK_HEADER_LEN }, { w->buffer + LINK_HEADER_LEN, w->room - LINK_HEADER_LEN } };
	struct link_frame frame = { .iov = iov, .n = 2 };

	if (w->link->ops->recv(w->link, &frame, 1))
		MUST(frame.result == -EMSGSIZE || ((size_t)frame.result >= LINK_HEADER_LEN + LINK_FRAME_MIN &&
			(size_t)frame.result <= w->room));
}

static void on_writable(void *ctx)
{
	(void)ctx;
}

static void on_state(void *ctx, bool up)
{
	((struct world *)ctx)->downs += !up;
}

static void turn(struct world *w)
{
	loop_stop(w->loop);
	MUST(loop_run(w->loop) == 0);
}

static void send_one(struct world *w, size_t len)
{
	static uint8_t frame[LINK_HEADER_LEN + LINK_FRAME_MAX];
	struct iovec iov[2][2] = { { { frame, LINK_HEADER_LEN }, { frame + LINK_HEADER_LEN, len } },
		{ { frame, LINK_HEADER_LEN }, { frame + LINK_HEADER_LEN, len } } };
	struct link_frame batch[2] = { { .iov = iov[0], .n = 2, .total = LINK_HEADER_LEN + len },
		{ .iov = iov[1], .n = 2, .total = LINK_HEADER_LEN + len } };

	MUST(w->link->ops->send(w->link, batch, 2) <= 2);
}

static void setup(struct world *w, uint8_t room)
{
	const struct link_events events = { on_readable, on_writable, on_state, w };
	struct error err;
	int wire[2];

	*w = (struct world){ .room = LINK_HEADER_LEN + LINK_FRAME_MIN + room * 280u };
	w->buffer = malloc(w->room);
	MUST(w->buffer && socketpair(AF_UNIX, SOCK_STREAM, 0, wire) == 0);
	MUST(link_stream_adopt(&w->link, wire[0], NULL, "peer") == 0);
	w->peer = wire[1];
	MUST(loop_create(&w->loop, &err) == 0);
	MUST(w->link->ops->attach(w->link, w->loop, &events) == 0);
	w->link->ops->listen(w->link, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t sink[4096];
	struct world w;

	log_level = LOG_ERROR;
	if (size < 2)
		return 0;
	setup(&w, data[0]);
	data++, size--;
	while (size) {
		size_t len = MIN((size_t)(data[0] & 0x7f), size - 1);

		if (data[0] & 0x80)
			send_one(&w, LINK_FRAME_MIN + len * 100);
		if (send(w.peer, data + 1, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			MUST(errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
		/* Level-triggered: what is left over is seen next time. */
		for (unsigned i = 0; i < 4; i++)
			turn(&w);
		if (data[0] & 1)
			(void)!recv(w.peer, sink, sizeof(sink), MSG_DONTWAIT);
		data += 1 + len;
		size -= 1 + len;
	}
	MUST(w.downs <= 1 && w.link->up == !w.downs);
	w.link->ops->detach(w.link);
	w.link->ops->close(w.link);
	loop_destroy(w.loop);
	close(w.peer);
	free(w.buffer);
	return 0;
}
