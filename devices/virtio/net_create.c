/*
 * The options of virtio-net, and the links that they ask for: a tap, taps handed over, or passt.
 * Main, stage 2: everything is opened here.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/virtio/net.h"
#include "vmm/worker.h"

enum {
	MTU_MIN = 68,            /* virtio 1.2 §5.1.4.1 */
	MTU_MAX = 65521,
};

enum { ANTI_SPOOF_AUTO, ANTI_SPOOF_ON, ANTI_SPOOF_OFF };
static const char *const anti_spoof_choices[] = { "auto", "on", "off", NULL };

struct net_options {
	struct virtio_options virtio;
	char *tap, *ip, *mask, *forward;
	struct option_mac mac, host_mac;
	struct option_ints fd;
	bool user;
	uint32_t mtu, num_queues, speed, anti_spoof;
	bool standby;
	struct rate_device_options rate;
	char *capture, *capture_filter;
	uint64_t capture_size;
	bool capturing;
};

static int open_user(struct link **ret, const struct net_options *o, struct error *err)
{
	const char *args[] = { o->forward ? "--tcp-ports" : NULL, o->forward, NULL };
	const struct link_passt_config config = { .program = "passt", .args = args, .mtu = o->mtu };

	if (o->num_queues > 2)
		return error_set(err, EINVAL,
			"--net num_queues=%u: user networking has one pair of queues; leave num_queues "
			"out", o->num_queues);
	return link_passt_open(ret, &config, err);
}

static int open_tap(struct link **ret, const struct net_options *o, struct error *err)
{
	const struct link_tap_config config = {
		.name = o->tap,
		.ip = o->ip,
		.mask = o->mask,
		.mtu = o->mtu,
		.host_mac = o->host_mac.set ? o->host_mac.bytes : NULL,
	};
	int r = link_tap_open(ret, o->num_queues / 2, &config, err);

	return r ? error_prefix(err, r, "--net tap=%s", o->tap) : 0;
}

static int open_fd(struct link **ret, const struct net_options *o, struct error *err)
{
	unsigned pairs = o->num_queues / 2;
	int fds[NET_PAIRS_MAX], r;

	if (o->fd.n != pairs)
		return error_set(err, EINVAL,
			"--net fd: %u %s needed for num_queues=%u, %u given; hand over one for each "
			"pair of queues", pairs, pairs == 1 ? "fd is" : "fds are", o->num_queues, o->fd.n);
	for (unsigned i = 0; i < pairs; i++)
		fds[i] = o->fd.v[i] <= INT_MAX ? (int)o->fd.v[i] : -1;
	r = link_tap_adopt(ret, fds, pairs, err);
	return r ? error_prefix(err, r, "--net fd=%u", o->fd.v[0]) : 0;
}

/* The pairing key of §5.1.3.1 is the address: a random one pairs with nothing. */
static int check_standby(const struct net_options *o, struct error *err)
{
	return !o->standby || o->mac.set ? 0 : error_set(err, EINVAL,
		"--net standby: the function to pair with is found by its address; give mac=");
}

static int open_link(struct link **ret, const struct net_options *o, struct error *err)
{
	unsigned kinds = (unsigned)o->user + (o->tap != NULL) + (o->fd.n > 0);

	if (!kinds)
		return error_set(err, EINVAL,
			"--net: where to? write --net user for networking without rights (through "
			"passt), or --net tap=NAME for a tap interface");
	if (o->num_queues % 2)
		return error_set(err, EINVAL,
			"--net num_queues=%u: queues come in pairs, one for each direction; give an even "
			"number", o->num_queues);
	if (kinds > 1)
		return error_set(err, EINVAL,
			"--net: user, tap and fd exclude each other; give one of them");
	if (o->forward && !o->user)
		return error_set(err, EINVAL,
			"--net forward=%s: only user networking forwards ports; add user",
			o->forward);
	if ((o->ip || o->mask || o->host_mac.set) && !o->tap)
		return error_set(err, EINVAL,
			"--net: ip, mask and host_mac belong to a tap; add tap=NAME");
	if (o->user)
		return open_user(ret, o, err);
	return o->tap ? open_tap(ret, o, err) : open_fd(ret, o, err);
}

/* What one process cannot have, or cannot hand to the next. */
static int check_isolation(const struct net_options *o, struct error *err)
{
	static const char *const leave = "say isolation=thread, or leave the other out";

	if (o->user)
		return error_set(err, EINVAL,
			"--net user: passt's stream of frames cannot be taken over in the middle of one by another process; "
			"%s", leave);
	if (o->capture)
		return error_set(err, EINVAL, "--net capture=%s: frames are captured by threads of this program, which do not "
			"see those of a device with a process of its own; %s", o->capture, leave);
	if (o->rate.group)
		return error_set(err, EINVAL,
			"--net rate_group=%s: a group's limits are shared by threads of this program, not with a process; %s",
			o->rate.group, leave);
	return 0;
}

static int choose_mac(struct net *net, const struct net_options *o, struct error *err)
{
	if (o->mac.set) {
		/* no group address: options see to that */
		memcpy(net->mac, o->mac.bytes, sizeof(net->mac));
		return 0;
	}
	if (getrandom(net->mac, sizeof(net->mac), 0) != sizeof(net->mac))
		return error_set(err, EIO,
			"no random numbers for a MAC address; give one with mac=");
	net->mac[0] = (uint8_t)((net->mac[0] & 0xfe) | 2); /* not a group, administered locally */
	return 0;
}

static const struct syscall_row capture_syscalls[] = { CAPTURE_SYSCALL_ROWS, SYSCALL_END };

/* A thread of its own writes the file, so that a slow disk holds no frame up. */
static int open_capture(struct net *net, const struct device_env *env, const struct net_options *o,
	struct error *err)
{
	const struct capture_config config = {
		.path = o->capture,
		.filter = o->capture_filter,
		.size = o->capture_size,
		.name = net->dev.id,
		.lanes = o->num_queues / 2,
		.on = o->capturing,
	};
	struct worker *worker;
	char name[DEVICE_ID_MAX + 8];
	int r;

	if (!o->capture)
		return !o->capture_filter && !o->capture_size ? 0 : error_set(err, EINVAL,
			"--net: capture_filter and capture_size need capture=FILE");
	r = capture_open(&net->capture, &config, err);
	if (r)
		return error_prefix(err, r, "--net");
	if (!env->worker)
		return 0; /* nobody to write but capture_close() */
	snprintf(name, sizeof(name), "%.10s_cap", net->dev.id);
	r = env->worker(env, name, true, &worker, err);
	if (!r)
		r = worker_allow(worker, capture_syscalls);
	if (!r)
		r = capture_attach(net->capture, worker_loop(worker));
	return r;
}

int net_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);
	const struct net_options *o = options;
	struct link *links[NET_PAIRS_MAX] = { NULL };
	struct net_setup setup = { .links = links, .npairs = o->num_queues / 2,
		.mtu = o->mtu, .speed = o->speed, .standby = o->standby,
		.anti_spoof = o->anti_spoof == ANTI_SPOOF_ON ||
			(o->anti_spoof == ANTI_SPOOF_AUTO && o->mac.set) };
	int r = check_standby(o, err);

	if (!r && dev->isolated)
		r = check_isolation(o, err);
	for (unsigned i = 0; i < ARRAY_SIZE(net->rate) && !r; i++)
		r = device_rate(&net->rate[i], env, &o->rate, "net", err);
	if (!r)
		r = choose_mac(net, o, err);
	if (!r)
		r = open_capture(net, env, o, err);
	if (!r)
		r = open_link(links, o, err);
	if (!r)
		r = net_init(net, &setup, err);
	if (r)
		return r;
	memcpy(dev->syscalls, links[0]->syscalls, sizeof(links[0]->syscalls));
	return device_main_calls(env, links[0]->main_syscalls, err);
}

#define NET_OPTION(key_, type_, member_, ...)                                                      \
	{ .key = key_, .type = type_, .offset = offsetof(struct net_options, member_), __VA_ARGS__ }

static const struct option_row net_rows[] = {
	NET_OPTION("user", OPTION_BOOL, user, .def = "off",
		.help = "user-mode networking through passt, without rights"),
	NET_OPTION("forward", OPTION_STRING, forward,
		.help = "with user: host TCP ports to forward, as passt -t takes them "
			"(\"2222:22\")"),
	NET_OPTION("tap", OPTION_STRING, tap, .help = "tap interface, used or made"),
	NET_OPTION("fd", OPTION_INTS, fd, .help = "open tap that was handed over; a list, one for each pair of queues"),
	NET_OPTION("mac", OPTION_MAC, mac,
		.help = "address of the guest's end; random when not given"),
	NET_OPTION("anti_spoof", OPTION_ENUM, anti_spoof, .choices = anti_spoof_choices,
		.def = "auto",
		.help = "drop what the guest sends from another address; auto: when mac is given"),
	NET_OPTION("standby", OPTION_BOOL, standby, .def = "off",
		.help = "pair up with a passed-through function of the same mac, which the guest prefers"),
	NET_OPTION("speed", OPTION_U32, speed, .max = INT_MAX, .unit = "Mbit/s",
		.help = "speed that the guest is told; unknown when not given"),
	RATE_DEVICE_OPTION_ROWS(struct net_options, rate),
	NET_OPTION("capture", OPTION_PATH, capture,
		.help = "file for a copy of all frames, in pcapng, for tcpdump and Wireshark"),
	NET_OPTION("capture_filter", OPTION_STRING, capture_filter,
		.help = "only these of them, as tcpdump takes it (\"tcp port 80\")"),
	NET_OPTION("capture_size", OPTION_SIZE, capture_size, .unit = "bytes",
		.help = "keep the latest so many, in two files; 0: all"),
	NET_OPTION("capturing", OPTION_BOOL, capturing, .def = "on",
		.help = "begin with the machine; off: when told to"),
	NET_OPTION("host_mac", OPTION_MAC, host_mac, .help = "address of the tap's end"),
	NET_OPTION("ip", OPTION_STRING, ip, .help = "IPv4 address of the tap"),
	NET_OPTION("mask", OPTION_STRING, mask,
		.help = "its netmask; 255.255.255.0 when not given"),
	NET_OPTION("mtu", OPTION_U32, mtu, .min = MTU_MIN, .max = MTU_MAX, .unit = "bytes",
		.help = "largest packet, told to the guest and set on the tap"),
	NET_OPTION("num_queues", OPTION_U32, num_queues, .def = "2", .min = 2,
		.max = 2 * NET_PAIRS_MAX,
		.unit = "queues", .help = "queues, two for each pair"),
	VIRTIO_OPTION_ROWS("256"),
	OPTION_ROWS_END,
};

const struct option_group net_group = {
	.flag = "net",
	.json = "net",
	.kind = OPTION_MANY,
	.size = sizeof(struct net_options),
	.rows = net_rows,
	.help = "a network interface",
	.section = "Devices",
};

int net_handed_fd(const void *options, unsigned i)
{
	const struct net_options *o = options;

	return i < o->fd.n && o->fd.v[i] <= INT_MAX ? (int)o->fd.v[i] : -1;
}
