/*
 * virtio-net whose frames the kernel's vhost moves between rings and tap (back_vhost.h). The
 * control queue stays with a worker of ours, and so does what it changes: the tap's offloads, and
 * which pairs are attached to their interface. The host's word about the interface reaches the
 * guest as before.
 *
 * Not offered then: gathering of interrupts, since the kernel has none. What a driver says about
 * addresses and VLANs that it wants is remembered, and not acted upon: it may get more than it
 * asked for (virtio 1.2 §5.1.6.5.1 to 3: filtering is a best effort).
 *
 * Out of the question when each frame has to pass us: for rate limits, for a capture, to check
 * source addresses; and without a tap. With vhost=auto our own workers do it then, without a word
 * but with -v.
 */
#include <errno.h>
#include <unistd.h>

#include "devices/virtio/back_vhost.h"
#include "devices/virtio/net.h"
#include "devices/virtio/vhost.h"
#include "vmm/log.h"

static const char node[] = "/dev/vhost-net";

static struct net *to_net(struct virtio_device *dev)
{
	return container_of(dev, struct net, dev);
}

/* --- around the queues; the worker --- */

static bool ours(struct virtio_device *dev, unsigned queue)
{
	return !net_lane_of(to_net(dev), queue);
}

static int start(struct virtio_device *dev, unsigned queue, struct loop *loop)
{
	struct net *net = to_net(dev);
	struct net_pair *p = &net->pairs[queue / 2];
	int r;

	net_begin(net);
	r = net_start_pair(p, loop);
	if (r)
		return r;
	p->in_kernel |= 1u << (queue % 2);
	if (!queue)
		net_refresh_config(net);
	net_apply(p);
	return 0;
}

static void stop(struct virtio_device *dev, unsigned queue)
{
	struct net_pair *p = &to_net(dev)->pairs[queue / 2];

	p->in_kernel &= ~(1u << (queue % 2));
	net_stop_pair(p);
}

static int file(struct virtio_device *dev, unsigned queue)
{
	const struct net_pair *p = &to_net(dev)->pairs[queue / 2];

	return p->enabled ? p->link->tap_fd : -1;
}

static const struct back_vhost_hooks hooks = { .ours = ours, .start = start, .stop = stop, .file = file };

/* --- main --- */

static int open_failed(int code, struct error *err)
{
	if (code == ENOENT || code == ENODEV || code == ENXIO)
		return error_set(err, code,
			"--net vhost=on: this host has no %s; load the module with: modprobe vhost_net; or say vhost=off",
			node);
	if (code == EACCES || code == EPERM)
		return error_set(err, code,
			"--net vhost=on: no right to use %s; become a member of its group, or say vhost=off", node);
	return error_set(err, code, "--net vhost=on: %s: %s; say vhost=off", node, strerror(code));
}

/* An fd for each pair, and the features that the kernel has. */
static int open_all(const struct net *net, int *fds, uint64_t *features, struct error *err)
{
	unsigned n = 0;
	int r = 0;

	for (; n < net->npairs && r >= 0; n++) {
		r = vhost_open(node);
		if (r < 0) {
			open_failed(-r, err);
			break;
		}
		fds[n] = r;
		r = vhost_call(r, VHOST_GET_FEATURES, features);
		if (r < 0)
			error_set(err, -r, "--net vhost=on: %s does not say what it can do: %s; say vhost=off", node,
				strerror(-r));
		else if (!(*features & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
			r = error_set(err, ENOTSUP, "--net vhost=on: this kernel's vhost is too old for virtio 1; say vhost=off");
	}
	while (r < 0 && n--)
		close(fds[n]);
	return r < 0 ? r : 0;
}

static int make_back(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err)
{
	struct net *net = to_net(dev);
	int fds[NET_PAIRS_MAX], r;
	struct back_vhost_config config = { .fds = fds, .n = net->npairs, .hooks = &hooks };

	r = open_all(net, fds, &config.features, err);
	if (r < 0 && net->vhost_mode == NET_VHOST_AUTO) {
		log_info("%s: served by us, not by the kernel's vhost: %s", dev->id, strerror(-r));
		return back_worker_create(ret, dev, env, err);
	}
	if (r < 0)
		return r;
	if (!net->pairs[0].link->tap_header)
		config.also = UINT64_C(1) << VHOST_NET_F_VIRTIO_NET_HDR;
	net->one_worker = true;
	r = back_vhost_create(ret, dev, env, &config, err);
	if (r < 0)
		return r;
	dev->offered &= ~(VIRTIO_BIT(NET_F_NOTF_COAL) | VIRTIO_BIT(NET_F_VQ_NOTF_COAL));
	net->vhost = *ret;
	log_info("%s: served by the kernel's vhost", dev->id);
	return 0;
}

int net_vhost_setup(struct net *net, enum net_vhost_mode mode, const char *not, struct error *err)
{
	if (mode == NET_VHOST_OFF)
		return 0;
	if (!not && !net->pairs[0].link->is_tap)
		not = "a network that is no tap";
	if (not && mode == NET_VHOST_ON)
		return error_set(err, EINVAL,
			"--net vhost=on: %s needs this program to see each frame; leave that out, or say vhost=off", not);
	if (not) {
		log_info("%s: served by us, not by the kernel's vhost: %s needs that", net->dev.id, not);
		return 0;
	}
	net->vhost_mode = mode;
	net->dev.make_back = make_back;
	return 0;
}
