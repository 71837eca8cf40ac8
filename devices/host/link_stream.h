/*
 * Inside of the links that speak "length, frame" over a stream socket (link_passt.c): the wire,
 * apart from who is at the other end.
 */
#ifndef DEVICES_HOST_LINK_STREAM_H
#define DEVICES_HOST_LINK_STREAM_H

#include "devices/host/child.h"
#include "devices/host/link.h"

/*
 * link_whole.c; main. The link is for one process after the other (link_ops.forked): frames are
 * sent and taken whole, so that each finds the stream where a frame begins. Once, before anything
 * is sent. The owner may set timers. -ENOMEM, -EMFILE, -ENOBUFS.
 */
int link_stream_will_fork(struct link *l) NEEDS_CHECK;
/*
 * Main. A link on the connected stream socket `fd`. `child` (may be NULL: nobody to watch) is the
 * peer's process; `name` stays valid. Takes fd and child unless it fails (-ENOMEM, -EMFILE).
 */
int link_stream_adopt(struct link **ret, int fd, const struct child *child,
	const char *name) NEEDS_CHECK;

#endif
