/* virtio-net as a device: what it offers, its options, its state. */
#include "tests/unit/net_rig.h"

/* --- the device --- */

Test(net_device, what_is_offered_follows_the_link)
{
	const uint64_t tso = CSUM_TSO | B(NET_F_CTRL_GUEST_OFFLOADS) | B(NET_F_GUEST_CSUM) | B(NET_F_GUEST_TSO4) |
		B(NET_F_GUEST_TSO6);
	const uint64_t base = virtio_net_type.features;
	struct fixture f;

	setup(&f, 0, 0);
	cr_assert_eq(f.rig->dev->offered, base);
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6, B(NET_F_GUEST_TSO4));
	cr_assert_eq(f.rig->dev->offered, base | tso);
	cr_assert_eq(fake.set_to, 0, "segmentation without checksums is not given");
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_USO,
		B(NET_F_GUEST_USO4) | B(NET_F_GUEST_USO6) | B(NET_F_GUEST_CSUM));
	cr_assert_eq(f.rig->dev->offered & (B(NET_F_HOST_USO) | B(NET_F_GUEST_USO4)),
		B(NET_F_HOST_USO) | B(NET_F_GUEST_USO4));
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_USO);
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_USO, B(NET_F_GUEST_USO4) | B(NET_F_GUEST_CSUM));
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM, "Linux has both or none");
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4, B(NET_F_GUEST_TSO4) | B(NET_F_GUEST_CSUM));
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4);
	rig_free(f.rig);
}

Test(net_device, bad_options_are_refused_with_a_sentence)
{
	refused("mtu=1500", "write --net user");
	refused("user,tap=x", "exclude each other");
	refused("user,mac=01:00:00:00:00:01", "must be even");
	refused("tap=x,forward=22", "add user");
	refused("user,ip=10.0.0.1", "add tap=NAME");
	refused("tap=a_name_that_is_too_long", "longer than 15 characters");
	refused("fd=199", "no such open file");
	refused("user,bw_size=1M", "bw_refill_time");
	refused("user,rate_group=x", "rate_group=x");
	refused("user,standby=on", "give mac=");
	refused("user,anti_spoof=maybe", "anti_spoof");
	refused("user,num_queues=4", "has one pair of queues");
	refused("tap=x,num_queues=3", "even number");
	refused("fd=199,num_queues=4", "2 fds are needed");
	refused("fd=[3-4]", "1 fd is needed");
	refused("user,mtu=67", "mtu");
}

Test(net_device, the_address_is_saved_and_loaded)
{
	const struct state_desc *desc = virtio_net_type.state;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct net_config c;
	struct fixture f;
	struct error err;

	setup(&f, 0, 0);
	cr_assert_eq(state_save(&w, desc, f.rig->dev), 0);
	memset(f.net->mac, 0x22, 6);
	r = (struct state_reader){ w.data, w.len, 0 };
	rig_stop(f.rig, RX);
	cr_assert_eq(state_load(&r, desc, f.rig->dev, &err), 0, "%s", err.text);
	rig_start(f.rig, RX, QUEUE, 0);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(memcmp(c.mac, "\x02\x01\x02\x03\x04\x05", 6), 0);
	f.net->mac[0] = 1;
	cr_assert_neq(desc->check(f.rig->dev, &err), 0);
	state_writer_free(&w);
	rig_free(f.rig);
}

Test(net_device, what_options_promise_is_offered)
{
	struct net_config c;
	struct error err = { "" };
	struct rig *r = rig_new(&virtio_net_type, "user,mac=02:00:00:00:00:01,standby=on,speed=10000",
		&err);

	if (!r)
		cr_skip_test("%s", err.text);
	cr_assert(r->dev->offered & B(NET_F_STANDBY));
	virtio_config_read(&r->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.speed, 10000);
	cr_assert_eq(c.duplex, NET_DUPLEX_FULL);
	cr_assert(container_of(r->dev, struct net, dev)->anti_spoof, "mac= was given");
	rig_free(r);
	r = rig_new(&virtio_net_type, "user", &err);
	cr_assert(r, "%s", err.text);
	cr_assert_not(r->dev->offered & B(NET_F_STANDBY));
	virtio_config_read(&r->dev->config, 0, &c, sizeof(c));
	cr_assert(c.speed == NET_SPEED_UNKNOWN && c.duplex == NET_DUPLEX_UNKNOWN);
	cr_assert_not(container_of(r->dev, struct net, dev)->anti_spoof);
	rig_free(r);
}
