/*
 * Inside of a link over a stream socket, shared by link_stream.c (the wire, its peer) and
 * link_whole.c (whole frames, for one process after the other). Nobody else includes it.
 */
#ifndef DEVICES_HOST_LINK_STREAM_PRIVATE_H
#define DEVICES_HOST_LINK_STREAM_PRIVATE_H

#include "devices/host/link_stream.h"

enum {
	LENGTH_BYTES = 4,
	RX_BYTES = 128 * KIB,
	TX_BYTES = LENGTH_BYTES + LINK_FRAME_MAX,
};
_Static_assert(RX_BYTES > TX_BYTES, "a whole frame always fits in the buffer, so reading makes "
	"progress");

/* link_whole.c's own. */
struct link_whole;

struct stream {
	struct link link;             /* first */
	int fd, pidfd;                /* const; pidfd -1: nobody to watch */
	int ended_fd;                 /* const; rings when the peer's process has ended; -1: never */
	struct loop_source *watch;    /* main; on its loop */
	int errors_fd;                /* const; what it writes to stderr; -1: not kept */
	const char *name;             /* const; of the peer, for lines */
	struct loop *loop;            /* owner */
	struct loop_source *source, *ended;
	struct link_events events;
	bool listening, blocked;      /* owner */
	bool again_posted;            /* owner */
	size_t rx_start, rx_end;      /* owner; bytes of rx that are not handed out */
	size_t tx_start, tx_end;      /* owner; bytes of tx that the socket did not take yet */
	bool drained;                 /* owner; this recv's last read took all there was */
	struct link_whole *whole;     /* const; NULL: a frame may be cut */
	uint32_t prefix[LINK_BATCH_MAX]; /* owner; lengths of the frames of a batch */
	uint8_t rx[RX_BYTES];
	uint8_t tx[TX_BYTES];
};

static inline struct stream *link_stream_of(struct link *l)
{
	return container_of(l, struct stream, link);
}

/* link_stream.c; owner. */
void link_stream_down(struct stream *p);
/* Bytes sent, 0 when the socket is full, -ENETDOWN. */
ssize_t link_stream_put(struct stream *p, struct iovec *iov, int n);
/* What the loop waits for, as it is now. */
void link_stream_rewatch(struct stream *p);
void link_stream_set_blocked(struct stream *p, bool blocked);

/* link_whole.c; owner, where p->whole is not NULL but for the first. */
/* Nothing is to be read for the moment. */
bool link_whole_rests(const struct stream *p);
/* As send_some() and fill(). */
unsigned link_whole_send(struct stream *p, struct link_frame *f, unsigned n);
int link_whole_fill(struct stream *p);
int link_whole_attach(struct stream *p, struct loop *loop) NEEDS_CHECK;
void link_whole_detach(struct stream *p);
void link_whole_fds(const struct stream *p, void (*keep)(void *ctx, int fd), void *ctx);
/* Takes NULL. */
void link_whole_free(struct link_whole *w);

#endif
