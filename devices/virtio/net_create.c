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
#include "devices/virtio/types.h"
#include "devices/virtio/vdpa.h"
#include "vmm/worker.h"

enum {
	MTU_MIN = 68,            /* virtio 1.2 §5.1.4.1 */
	MTU_MAX = 65521,
};

static const char *const anti_spoof_choices[] = { "auto", "on", "off", NULL };
/* In the order of enum net_vhost_mode. */
static const char *const vhost_choices[] = { "auto", "on", "off", NULL };

static int open_user(struct link **ret, const struct net_options *o, bool forks, struct error *err)
{
	const char *args[] = { o->forward ? "--tcp-ports" : NULL, o->forward, NULL };
	const struct link_passt_config config = { .program = "passt", .args = args, .mtu = o->mtu,
		.forks = forks };

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
int net_check_standby(const struct net_options *o, struct error *err)
{
	return !o->standby || o->mac.set ? 0 : error_set(err, EINVAL,
		"--net standby: the function to pair with is found by its address; give mac=");
}

int net_check_pairs(const struct net_options *o, struct error *err)
{
	return o->num_queues % 2 == 0 ? 0 : error_set(err, EINVAL,
		"--net num_queues=%u: queues come in pairs, one for each direction; give an even number",
		o->num_queues);
}

/* `forks`: for a process of its own. */
static int open_link(struct link **ret, const struct net_options *o, bool forks, struct error *err)
{
	unsigned kinds = (unsigned)o->user + (o->tap != NULL) + (o->fd.n > 0);

	int r = vhost_user_check_options(&o->vhost_user, "net", err);

	if (r)
		return r;
	if (!kinds)
		return error_set(err, EINVAL,
			"--net: where to? write --net user for networking without rights (through "
			"passt), --net tap=NAME for a tap interface, or --net socket=PATH for vhost-user");
	if (net_check_pairs(o, err))
		return -EINVAL;
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
		return open_user(ret, o, forks, err);
	return o->tap ? open_tap(ret, o, err) : open_fd(ret, o, err);
}

/* Whatever main's loop tells, the owner hears once it is attached. */
static int watch_link(struct link *l, const struct device_env *env, struct error *err)
{
	int r = env->main_loop && l->ops->watch ? l->ops->watch(l, env->main_loop) : 0;

	return r ? error_set(err, -r, "--net: its link cannot be watched: %s", strerror(-r)) : 0;
}

int net_choose_mac(uint8_t mac[6], const struct net_options *o, struct error *err)
{
	if (o->mac.set) {
		/* no group address: options see to that */
		memcpy(mac, o->mac.bytes, sizeof(o->mac.bytes));
		return 0;
	}
	if (getrandom(mac, sizeof(o->mac.bytes), 0) != sizeof(o->mac.bytes))
		return error_set(err, EIO,
			"no random numbers for a MAC address; give one with mac=");
	mac[0] = (uint8_t)((mac[0] & 0xfe) | 2); /* not a group, administered locally */
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
		.forks = net->dev.isolated,
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
	if (net->dev.isolated)
		net->dev.pages = capture_pages(net->capture, &net->dev.pages_bytes);
	if (!env->worker)
		return 0; /* nobody to write but capture_close() */
	snprintf(name, sizeof(name), "%.10s_cap", net->dev.id);
	r = env->worker(env, name, WORKER_ALONE, &worker, err);
	if (!r)
		r = worker_allow(worker, capture_syscalls);
	if (!r)
		r = capture_attach(net->capture, worker_loop(worker));
	return r;
}

/* What of these options needs each frame to pass us; NULL: nothing. */
static const char *needs_frames(const struct net *net, const struct net_options *o)
{
	if (o->user)
		return "user networking";
	if (net->dev.isolated)
		return "isolation=process";
	if (o->capture)
		return "capture=";
	if (o->rate.group || rate_active(&net->rate[0]))
		return "a rate limit";
	if (net->anti_spoof)
		return o->anti_spoof == ANTI_SPOOF_ON ? "anti_spoof=on" : "mac= (without anti_spoof=off)";
	return NULL;
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
	int r = net_check_standby(o, err);

	for (unsigned i = 0; i < ARRAY_SIZE(net->rate) && !r; i++)
		r = device_rate(&net->rate[i], env, &o->rate, "net", err);
	dev->group = net->rate[0].parent;
	if (!r)
		r = net_choose_mac(net->mac, o, err);
	if (!r)
		r = open_capture(net, env, o, err);
	if (!r)
		r = open_link(links, o, dev->isolated, err);
	if (!r)
		r = net_init(net, &setup, err);
	if (!r)
		r = net_vhost_setup(net, o->vhost, needs_frames(net, o), err);
	if (!r)
		r = dev->isolated && !links[0]->watched_by_main ? 0 : watch_link(links[0], env, err);
	if (r)
		return r;
	memcpy(dev->syscalls, links[0]->syscalls, sizeof(links[0]->syscalls));
	_Static_assert((int)VIRTIO_SYSCALL_TABLES > (int)LINK_SYSCALL_TABLES, "one more");
	if (dev->isolated && !links[0]->watched_by_main) /* it watches for itself */
		dev->syscalls[LINK_SYSCALL_TABLES] = links[0]->watch_syscalls;
	dev->forked_syscalls = links[0]->forked_syscalls;
	r = dev->isolated && !links[0]->watched_by_main ? 0 : device_main_calls(env, links[0]->watch_syscalls, err);
	return r ? r : device_main_calls(env, links[0]->main_syscalls, err);
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
	NET_OPTION("vdpa", OPTION_PATH, vdpa,
		.help = "vDPA device, /dev/vhost-vdpa-N, whose own virtio-net the guest drives"),
	NET_OPTION("mac", OPTION_MAC, mac,
		.help = "address of the guest's end; random when not given"),
	NET_OPTION("anti_spoof", OPTION_ENUM, anti_spoof, .choices = anti_spoof_choices,
		.def = "auto",
		.help = "drop what the guest sends from another address; auto: when mac is given"),
	NET_OPTION("vhost", OPTION_ENUM, vhost, .choices = vhost_choices, .def = "auto",
		.help = "the host's kernel moves the frames of a tap; auto: when it can and no other option needs them here"),
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
	VHOST_USER_OPTION_ROWS(struct net_options, vhost_user),
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

const char *net_own_option(const struct net_options *o)
{
	const struct {
		bool given;
		const char *key;
	} all[] = {
		{ o->tap, "tap" },
		{ o->user, "user" },
		{ o->fd.n, "fd" },
		{ o->ip || o->mask || o->host_mac.set, "ip, mask or host_mac" },
		{ o->forward, "forward" },
		{ o->capture, "capture" },
		{ o->anti_spoof == ANTI_SPOOF_ON, "anti_spoof" },
		{ o->vhost == NET_VHOST_ON, "vhost" },
		{ o->rate.group, "rate_group" },
		{ o->rate.own.bw_size, "bw_size" },
		{ o->rate.own.ops_size, "ops_size" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].given)
			return all[i].key;
	return NULL;
}

int net_row_create(struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	const struct net_options *o = options;
	const struct vdpa_choice choice = {
		.id = VIRTIO_ID_NET,
		.path = o->vdpa,
		.other = o->vhost_user.socket ? "socket" : o->mac.set ? "mac" : o->mtu ? "mtu" :
			o->num_queues > 2 ? "num_queues" : o->speed ? "speed" : o->standby ? "standby" :
			net_own_option(o),
		.virtio = &o->virtio,
		.type = o->vhost_user.socket ? &virtio_net_vhost_user_type : &virtio_net_type,
	};

	return vdpa_create_or(ret, &virtio_net_row, &choice, env, options, err);
}
