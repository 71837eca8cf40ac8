/*
 * A network namespace of the test's own and the host's side of its taps. Included by one .c of a
 * test program.
 */
#ifndef TESTS_UNIT_TAP_RIG_H
#define TESTS_UNIT_TAP_RIG_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Frames of our own kind: the kernel sends neighbour discovery as it likes. */
enum { OUR_TYPE = 0x88b5 };

/* False when this host does not allow it. */
static bool own_network(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	return !access("/dev/net/tun", R_OK | W_OK);
}

/* A socket that sees frames of `type` pass through the interface on the host's side, and sends some. */
static int wire_of(const char *name, uint16_t type)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(type) };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(type));

	at.sll_ifindex = (int)if_nametoindex(name);
	cr_assert(s >= 0 && at.sll_ifindex);
	cr_assert_eq(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	return s;
}

static void set_up(const char *name, bool up)
{
	struct ifreq ifr = { .ifr_flags = up ? IFF_UP : 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	cr_assert_eq(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
	close(s);
}

#endif
