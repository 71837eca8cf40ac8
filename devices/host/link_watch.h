/*
 * What the host says about one network interface: is it up, is it gone. Inside of the links that
 * have one.
 *
 * Opened on main in stage 2; a netlink socket stays good after confinement, and belongs to the
 * network namespace that it was opened in. Then one owner.
 */
#ifndef DEVICES_HOST_LINK_WATCH_H
#define DEVICES_HOST_LINK_WATCH_H

#include "vmm/loop.h"
#include "vmm/util.h"

struct link_watch;

enum link_watch_state { LINK_WATCH_DOWN, LINK_WATCH_UP, LINK_WATCH_GONE };

/*
 * Main. The socket of a watch in this network namespace, by which its interfaces can also be asked
 * and set (netdevice(7)); -errno.
 */
int link_watch_socket(void) NEEDS_CHECK;
/*
 * Main. `index` of the interface. 0, and the socket belongs to the watch, or -errno. What becomes
 * of the interface from here on is told, what it is must be asked for.
 */
int link_watch_open(struct link_watch **ret, int sock, unsigned index) NEEDS_CHECK;
/* Takes NULL. */
void link_watch_close(struct link_watch *w);
int link_watch_fd(const struct link_watch *w);

/*
 * Owner. `fn` is told the state at each message of the host, changed or not; GONE also when the
 * interface went to another namespace.
 */
int link_watch_attach(struct link_watch *w, struct loop *loop,
	void (*fn)(void *ctx, enum link_watch_state state), void *ctx) NEEDS_CHECK;
/* Takes NULL; detached already: nothing. */
void link_watch_detach(struct link_watch *w);

/* Its calls are in the table of the link that has it. */
#endif
