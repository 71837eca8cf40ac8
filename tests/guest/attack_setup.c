/*
 * What a driver may not do to registers before and while a queue runs (virtio 1.2 §2.1, §3.1, §4.1.4.3, §4.2.2): rings in
 * impossible places and of impossible sizes, status bits out of order, kicks that nobody may hear, and values that change after the
 * device has taken them. On the disk; the registers are the same for all.
 */
#include "tests/guest/attack.h"
#include "tests/guest/pci.h"

enum { PARTS = 3, LOTS = 64, AFTER_OK = VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK | VIO_DRIVER_OK };

/* --- where rings may not be --- */

enum spot { S_PAST, S_ACROSS, S_HOLE, S_OWN, S_ECAM, S_LAPIC, S_TOP, S_HIGH, S_ODD, S_SHORT, S_FOUR_GIB, S_OVERLAP, SPOTS };

static const char *const spots[SPOTS] = {
	[S_PAST] = "cve_2021_45464_ring_past_the_end_of_ram_",
	[S_ACROSS] = "cve_2021_45464_ring_across_the_end_of_ram_",
	[S_HOLE] = "cve_2021_45464_ring_in_a_hole_",
	[S_OWN] = "vq11_ring_in_its_own_registers_",
	[S_ECAM] = "vq11_ring_in_config_space_",
	[S_LAPIC] = "vq11_ring_in_the_local_apic_",
	[S_TOP] = "vq11_ring_that_wraps_",
	[S_HIGH] = "vq11_ring_with_the_sign_bit_",
	[S_ODD] = "vq11_ring_at_an_odd_address_",
	[S_SHORT] = "vq11_ring_not_aligned_enough_",
	[S_FOUR_GIB] = "vq11_ring_at_4_gib_",
	[S_OVERLAP] = "vq11_ring_upon_another_",
};

static uint64_t place(const struct target *t, enum spot spot, unsigned part, uint64_t good)
{
	static const uint8_t half[PARTS] = { 8, 1, 2 };

	switch (spot) {
	case S_PAST:
		return ram_end();
	case S_ACROSS:
		return ram_end() - 16;
	case S_HOLE:
		return PLACE_HOLE;
	case S_OWN:
		return t->v.pci ? pci_bar(t->v.devfn, 0) : t->v.mmio;
	case S_ECAM:
		return PLACE_ECAM;
	case S_LAPIC:
		return PLACE_MESSAGES;
	case S_TOP:
		return UINT64_MAX - 15;
	case S_HIGH:
		return UINT64_C(1) << 63;
	case S_ODD:
		return good + 1;
	case S_SHORT:
		return good + half[part];
	case S_FOUR_GIB:
		return UINT64_C(1) << 32;
	default:
		return good;
	}
}

static void ring_place(struct target *t, unsigned i)
{
	enum spot spot = (enum spot)(i / PARTS);
	unsigned part = i % PARTS;
	uint64_t good = (uint64_t)t->in, at[PARTS] = { good, good + 8192, good + 16384 };

	if (!target_negotiate(t, VD_F_VERSION_1)) {
		fail("no negotiation");
		return;
	}
	at[part] = spot == S_OVERLAP ? at[(part + 1) % PARTS] : place(t, spot, part, at[part]);
	vio_queue_program(&t->v, 0, RING, at[0], at[1], at[2]);
	vio_queue_enable(&t->v, 0);
	vio_ready(&t->v);
	vio_kick(&t->v, 0);
	target_must(t, BREAKS);
	vio_kick(&t->v, 0);
}

static void ring_place_title(unsigned i, const char *part[2])
{
	static const char *const parts[PARTS] = { "desc", "avail", "used" };

	/* The event words of a packed ring are too small to lie across anything. */
	part[0] = is_packed() && i / PARTS == S_ACROSS && i % PARTS ? NULL : spots[i / PARTS];
	part[1] = parts[i % PARTS];
}

const struct attack_set attack_place = { "setup", SPOTS * PARTS, ring_place_title, ring_place, NULL, 0 };

/* --- sizes --- */

static const struct {
	const char *name;
	uint16_t size;
	bool packed_too;   /* good for a packed ring, which need not be a power of two (§2.8.10.1) */
} sizes[] = {
	{ "vq12_size_0", 0, false }, { "vq12_size_3", 3, true }, { "vq12_size_63", 63, true }, { "vq12_size_65", 65, true },
	{ "vq12_size_129", 129, false }, { "vq12_size_256", 256, false }, { "vq12_size_32768", 0x8000, false },
	{ "vq12_size_65535", 0xffff, false },
};

static void ring_size(struct target *t, unsigned i)
{
	uint64_t at = (uint64_t)t->in;
	bool good;

	must(target_negotiate(t, VD_F_VERSION_1), "no negotiation");
	vio_queue_program(&t->v, 0, sizes[i].size, at, at + 8192, at + 16384);
	vio_queue_enable(&t->v, 0);
	good = is_packed() && sizes[i].packed_too;
	must(vio_queue_enabled(&t->v, 0) == good, "the queue is %s", good ? "refused" : "enabled");
	vio_ready(&t->v);
	vio_kick(&t->v, 0);
	target_must(t, SERVES);
}

static void ring_size_title(unsigned i, const char *part[2])
{
	part[0] = sizes[i].name;
}

const struct attack_set attack_size = { "setup", ARRAY_SIZE(sizes), ring_size_title, ring_size, NULL, 0 };

/* --- status, step by step --- */

static const struct {
	const char *name;
	uint8_t steps[5], expected; /* what reads at the end; steps end with 0 */
} games[] = {
	{ "vq26_driver_ok_at_once", { 4 }, 0 },
	{ "vq26_all_bits_at_once", { 0x0f }, 0x0f },
	{ "vq26_driver_ok_without_features_ok", { 1, 3, 7 }, 3 },
	{ "vq26_driver_ok_twice", { 1, 3, 11, 15, 15 }, 15 },
	{ "vq26_bits_are_not_taken_back", { 1, 3, 11, 15, 1 }, 15 },
	{ "vq26_needs_reset_is_not_the_drivers", { 1, 3, 64 }, 3 },
	{ "vq26_reserved_bits", { 0x30, 0x10, 0x20 }, 0 },
	{ "vq26_failed_at_first", { 128 }, 128 },
	{ "vq26_failed_then_driver_ok", { 1, 3, 131, 15 }, 131 },
	{ "vq26_failed_while_running", { 1, 3, 11, 15, 143 }, 143 },
	{ "vq26_no_acknowledge", { 2, 10, 14 }, 14 },
};

static void status_game(struct target *t, unsigned i)
{
	vio_reset(&t->v);
	vio_set_driver_features(&t->v, VD_F_VERSION_1);
	for (unsigned k = 0; k < ARRAY_SIZE(games[i].steps) && games[i].steps[k]; k++) {
		vio_set_status(&t->v, games[i].steps[k]);
		vio_kick(&t->v, 0);
	}
	must(vio_status(&t->v) == games[i].expected, "status 0x%x, not 0x%x", vio_status(&t->v), games[i].expected);
}

static void status_title(unsigned i, const char *part[2])
{
	part[0] = games[i].name;
}

const struct attack_set attack_status = { "setup", ARRAY_SIZE(games), status_title, status_game, NULL, 0 };

/* --- features that nobody offered: more bits of header, of config space, of rings --- */

static const struct {
	const char *name;
	uint8_t bit;
	uint8_t kind;
} features[] = {
	{ "cve_2023_6693_hash_report", 57, TARGET_NET_TX }, { "cve_2024_6505_rss", 60, TARGET_NET_TX },
	{ "nt07_many_queues", 22, TARGET_NET_TX }, { "nt07_standby", 62, TARGET_NET_TX },
	{ "nt04_guest_header_len", 59, TARGET_NET_TX }, { "cve_2026_48914_scsi", 7, TARGET_BLK },
	{ "vq26_zoned", 17, TARGET_BLK }, { "vq26_lifetime", 15, TARGET_BLK }, { "vq26_multiport", 1, TARGET_CONSOLE_TX },
	{ "vq26_emergency_write", 2, TARGET_CONSOLE_TX }, { "vq26_platform_access", 33, TARGET_BLK },
	{ "vq26_notification_data", 38, TARGET_BLK }, { "vq26_ring_reset", 40, TARGET_BLK },
	{ "vq26_sr_iov", 37, TARGET_RNG }, { "vq26_bit_63", 63, TARGET_RNG },
};

static void feature(struct target *t, unsigned i)
{
	uint64_t bit = UINT64_C(1) << features[i].bit;

	vio_reset(&t->v);
	must(!(vio_device_features(&t->v) & bit), "it is offered: the case is out of date");
	vio_set_status(&t->v, VIO_ACKNOWLEDGE | VIO_DRIVER);
	vio_set_driver_features(&t->v, VD_F_VERSION_1 | bit);
	vio_set_status(&t->v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK);
	must(!(vio_status(&t->v) & VIO_FEATURES_OK), "a feature that was not offered is taken");
	vio_set_status(&t->v, AFTER_OK);
	must(!(vio_status(&t->v) & VIO_DRIVER_OK), "the device runs with it");
}

static void feature_title(unsigned i, const char *part[2])
{
	part[0] = "features_of_";
	part[1] = features[i].name;
}

static enum target_kind feature_on(unsigned i)
{
	return (enum target_kind)features[i].kind;
}

const struct attack_set attack_features = { "setup", ARRAY_SIZE(features), feature_title, feature, feature_on, 0 };

/* --- what comes at the wrong time --- */

static void rewrite(struct target *t, uint16_t size, uint64_t at)
{
	vio_queue_program(&t->v, 0, size, at, at, at);
	must(target_serves(t), "a running queue sees its registers change");
}

static void new_size(struct target *t)
{
	rewrite(t, 4, (uint64_t)t->v.queue[0].desc);
}

static void new_places(struct target *t)
{
	rewrite(t, RING, PLACE_MESSAGES);
}

static void enable_twice(struct target *t)
{
	must(target_serves(t), "the device does not serve");
	for (unsigned i = 0; i < LOTS; i++)
		vio_queue_enable(&t->v, 0);
	must(target_serves(t), "a running queue is started again");
}

/* MMIO may take a queue back (§4.2.2.2); over PCI the 0 is not to be written, and nothing may come of it. */
static void enable_toggles(struct target *t)
{
	for (unsigned i = 0; i < LOTS; i++) {
		raw_request(t, 0);
		raw_expose(t, (const uint16_t[]){ 0 }, 1);
		if (t->v.pci)
			write16(t->v.cfg[VIO_CFG_COMMON] + COMMON_QUEUE_ENABLE, 0);
		else
			write32(t->v.mmio + MMIO_QUEUE_READY, 0);
		vio_queue_enable(&t->v, 0);
	}
}

static void new_features(struct target *t)
{
	uint64_t features_now = t->v.features;

	vio_set_driver_features(&t->v, 0);
	vio_set_driver_features(&t->v, UINT64_MAX);
	t->v.features = features_now;
	must(target_serves(t), "a running device sees its features change");
}

static void new_vectors(struct target *t)
{
	if (t->v.pci)
		for (unsigned i = 0; i < LOTS; i++)
			write16(t->v.cfg[VIO_CFG_COMMON] + COMMON_QUEUE_VECTOR, (uint16_t)(i * 0x421));
	must(target_serves(t), "a running queue sees its vector change");
}

static void notify_at(struct target *t, uint32_t index)
{
	if (t->v.pci)
		for (uint32_t at = 0; at < 0x1000; at += 64)
			write16(t->v.queue[0].notify + at, (uint16_t)index);
	else
		write32(t->v.mmio + MMIO_QUEUE_NOTIFY, index);
}

static void notify_negative(struct target *t)
{
	static const uint32_t indices[] = { 1, 2, 16, 255, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_SIZE(indices); i++)
		notify_at(t, indices[i]);
	must(target_serves(t), "the device does not serve");
}

static void notify_early(struct target *t)
{
	for (unsigned i = 0; i < 2; i++) {
		vio_reset(&t->v);
		notify_at(t, 0);
		must(target_negotiate(t, VD_F_VERSION_1), "no negotiation");
		notify_at(t, 0);
		must(vio_queue(&t->v, 0, RING), "no queue");
		raw_request(t, 0);
		raw_expose(t, (const uint16_t[]){ 0 }, 1);
		pause_for(20000);
		must(raw_used(t) == 0, "a queue is served before DRIVER_OK");
	}
}

static void notify_late(struct target *t)
{
	raw_request(t, 0);
	vio_reset(&t->v);
	raw_expose(t, (const uint16_t[]){ 0 }, 1);
	pause_for(20000);
	must(raw_used(t) == 0, "a queue is served after a reset");
}

static void notify_failed(struct target *t)
{
	vio_set_status(&t->v, AFTER_OK | VIO_FAILED);
	raw_request(t, 0);
	raw_expose(t, (const uint16_t[]){ 0 }, 1);
	pause_for(20000);
	must(raw_used(t) == 0, "a queue is served after FAILED");
}

static void select_far(struct target *t)
{
	static const unsigned far[] = { 1, 8, 255, 0x7fff, 0x8000, 0xffff };

	for (unsigned i = 0; i < ARRAY_SIZE(far); i++) {
		must(vio_queue_max(&t->v, far[i]) == 0, "queue %u is there", far[i]);
		vio_queue_program(&t->v, far[i], 8, 0x1000, 0x2000, 0x3000);
		vio_queue_enable(&t->v, far[i]);
		must(!vio_queue_enabled(&t->v, far[i]), "queue %u can be enabled", far[i]);
	}
	for (uint32_t word = 2; word; word <<= 1)
		must(vio_device_feature_word(&t->v, word) == 0, "word 0x%x of the features is not 0", word);
	must(target_serves(t), "the device does not serve");
}

static void reset_storm(struct target *t)
{
	for (unsigned i = 0; i < LOTS / 4; i++) {
		must(target_start(t), "the device does not start");
		raw_request(t, 0);
		raw_expose(t, (const uint16_t[]){ 0 }, 1);
		vio_set_status(&t->v, 0);
	}
}

static const struct {
	const char *name;
	void (*run)(struct target *t);
} moments[] = {
	{ "cve_2026_5747_new_size_after_enable", new_size },
	{ "cve_2026_5747_new_places_after_enable", new_places },
	{ "cve_2026_5747_enabled_twice", enable_twice },
	{ "vq14_enable_toggles_in_flight", enable_toggles },
	{ "vq26_new_features_after_driver_ok", new_features },
	{ "pc04_new_vectors_after_enable", new_vectors },
	{ "cve_2011_2512_notify_of_no_queue", notify_negative },
	{ "vq25_notify_before_driver_ok", notify_early },
	{ "vq25_notify_after_reset", notify_late },
	{ "vq25_notify_after_failed", notify_failed },
	{ "vq32_selectors_out_of_range", select_far },
	{ "vq27_resets_in_flight", reset_storm },
};

static void moment(struct target *t, unsigned i)
{
	moments[i].run(t);
}

static void moment_title(unsigned i, const char *part[2])
{
	part[0] = moments[i].name;
}

const struct attack_set attack_moment = { "setup", ARRAY_SIZE(moments), moment_title, moment, NULL, 1000 };
