/*
 * The static tables (ACPI 6.5 chapter 5) and their place in memory. They are laid one after the
 * other into the room, the RSDP first so that its address is known and a scan of the BIOS area
 * finds it; each table points only to tables that are laid before it, but for the RSDP, which is
 * completed last.
 *
 * Pure function of the machine description; main thread, before the guest runs.
 */
#include "firmware/acpi.h"

#include <errno.h>
#include <inttypes.h>

struct rsdp { /* §5.2.5.3, revision 2 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "RSDP");

struct header { /* §5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct header) == 36, "table header");

struct gas { /* §5.2.3.2 Generic Address Structure */
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} __attribute__((packed));
_Static_assert(sizeof(struct gas) == 12, "GAS");

/* §5.2.9, revision 6.3. The blocks of fixed hardware (PM1, PM2, PM timer, GPE) are absent. */
struct fadt {
	struct header h;
	uint32_t facs, dsdt;
	uint8_t reserved0, pm_profile;
	uint8_t fixed_hardware[50]; /* SCI_INT to CST_CNT */
	uint16_t p_lvl2_latency, p_lvl3_latency;
	uint8_t flush_and_duty[6];
	uint8_t day_alarm, month_alarm, century;
	uint16_t boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_revision;
	uint64_t x_facs, x_dsdt;
	struct gas x_fixed_hardware[8];
	struct gas sleep_control, sleep_status;
	char hypervisor[8];
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "FADT");
_Static_assert(
	offsetof(struct fadt, boot_arch) == 109 && offsetof(struct fadt, sleep_control) == 244,
	"FADT");

struct madt { /* §5.2.12 */
	struct header h;
	uint32_t local_apic, flags;
} __attribute__((packed));
_Static_assert(sizeof(struct madt) == 44, "MADT");

struct madt_lapic { /* §5.2.12.2 */
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_lapic) == 8, "local APIC entry");

struct madt_ioapic { /* §5.2.12.3 */
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_ioapic) == 12, "I/O APIC entry");

struct madt_lapic_nmi { /* §5.2.12.7 */
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_lapic_nmi) == 6, "local APIC NMI entry");

struct madt_x2apic { /* §5.2.12.12 */
	uint8_t type, length;
	uint16_t reserved;
	uint32_t apic_id, flags, uid;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_x2apic) == 16, "local x2APIC entry");

struct madt_x2apic_nmi { /* §5.2.12.13 */
	uint8_t type, length;
	uint16_t flags;
	uint32_t uid;
	uint8_t lint, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct madt_x2apic_nmi) == 12, "local x2APIC NMI entry");

struct mcfg { /* PCI Firmware Specification 3.3 §4.1.2, with one allocation */
	struct header h;
	uint8_t reserved0[8];
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint8_t reserved1[4];
} __attribute__((packed));
_Static_assert(sizeof(struct mcfg) == 60, "MCFG");

enum {
	RSDP_V1_LEN = 20,
	PM_PROFILE_UNSPECIFIED = 0,
	LATENCY_NO_C2 = 101, /* §5.2.9: above 100 and 1000 microseconds C2 and C3 do not exist */
	LATENCY_NO_C3 = 1001,
	CMOS_CENTURY = 0x32,
	ACCESS_BYTE = 1,
	GAS_MEMORY = 0,
	GAS_IO = 1,

	/* FADT flags, table 5.10 */
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_NO_FIXED_POWER_BUTTON = 1 << 4,
	FADT_NO_FIXED_SLEEP_BUTTON = 1 << 5,
	FADT_NO_FIXED_RTC = 1 << 6,
	FADT_RESET_REG = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
	/* IAPC_BOOT_ARCH, table 5.11; no 8042 and no legacy devices by leaving their bits clear */
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_ASPM = 1 << 4,
	BOOT_NO_CMOS_RTC = 1 << 5,

	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_LAPIC_NMI = 4,
	MADT_X2APIC = 9,
	MADT_X2APIC_NMI = 10,
	MADT_ENABLED = 1 << 0,
	MADT_ONLINE_CAPABLE = 1 << 1,
	MADT_EVERY_LAPIC = 0xff,
	LINT_OF_NMI = 1,
	X2APIC_FIRST = 255, /* ids from here on have no xAPIC form */
	LOCAL_APIC_ADDRESS = 0xfee00000,
	IOAPIC_ADDRESS = 0xfec00000,

	TABLES_MAX = 3,
};

/* The room that is left; a take that does not fit sets `full`, and all later ones fail too. */
struct room {
	uint8_t *host;
	uint64_t gpa, len, used;
	bool full;
};

/* Zeroed bytes at the next aligned place, or NULL. */
static void *take(struct room *r, uint64_t len)
{
	uint64_t at = align_up(r->used, ACPI_ALIGN);

	if (r->full || !range_inside(at, len, 0, r->len)) {
		r->full = true;
		return NULL;
	}
	r->used = at + len;
	return memset(r->host + at, 0, len);
}

static uint64_t gpa_of(const struct room *r, const void *table)
{
	return r->gpa + (uint64_t)((const uint8_t *)table - r->host);
}

/* What makes the bytes add up to 0; the field itself is 0 meanwhile. */
static uint8_t checksum(const void *bytes, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
	return (uint8_t)-sum;
}

/* The last thing done to a table: its contents are complete. */
static void seal(struct header *h, const char *signature, uint8_t revision, uint32_t length)
{
	memcpy(h->signature, signature, sizeof(h->signature));
	h->length = length;
	h->revision = revision;
	memcpy(h->oem_id, "MICROV", sizeof(h->oem_id));
	memcpy(h->oem_table_id, "MICROVM ", sizeof(h->oem_table_id));
	h->oem_revision = 1;
	memcpy(h->creator_id, "MVM ", sizeof(h->creator_id));
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, length);
}

static int put_dsdt(struct room *r, const struct fw_machine *m, uint64_t *ret_gpa)
{
	struct header *h = take(r, sizeof(*h));
	size_t len;
	int e;

	if (!h)
		return -ENOSPC;
	e = acpi_dsdt_write(m, h + 1, r->len - r->used, &len);
	if (e)
		return e;
	r->used += len;
	/* Revision 2: integers have 64 bits (§19.6.30). */
	seal(h, "DSDT", 2, (uint32_t)(sizeof(*h) + len));
	*ret_gpa = gpa_of(r, h);
	return 0;
}

static struct gas ged_register(const struct fw_node *ged, unsigned offset)
{
	return (struct gas){ .space = ged->pio ? GAS_IO : GAS_MEMORY,
		.bit_width = 8,
		.access_size = ACCESS_BYTE,
		.address = ged->base + offset };
}

static uint64_t put_fadt(struct room *r, const struct fw_machine *m, uint64_t dsdt)
{
	const struct fw_node *ged = fw_node(m, "ged", 0);
	struct fadt *t = take(r, sizeof(*t));

	if (!t)
		return 0;
	t->dsdt = (uint32_t)dsdt;
	t->x_dsdt = dsdt;
	t->pm_profile = PM_PROFILE_UNSPECIFIED;
	t->p_lvl2_latency = LATENCY_NO_C2;
	t->p_lvl3_latency = LATENCY_NO_C3;
	t->boot_arch = BOOT_NO_VGA | BOOT_NO_ASPM;
	if (fw_node(m, "rtc-cmos", 0))
		t->century = CMOS_CENTURY;
	else
		t->boot_arch |= BOOT_NO_CMOS_RTC;
	t->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_FIXED_POWER_BUTTON |
		   FADT_NO_FIXED_SLEEP_BUTTON | FADT_NO_FIXED_RTC | FADT_HW_REDUCED;
	if (ged) {
		t->flags |= FADT_RESET_REG;
		t->reset = ged_register(ged, ACPI_GED_RESET);
		t->reset_value = ACPI_GED_RESET_VALUE;
		t->sleep_control = ged_register(ged, ACPI_GED_SLEEP_CONTROL);
		t->sleep_status = ged_register(ged, ACPI_GED_SLEEP_STATUS);
	}
	memcpy(t->hypervisor, "MICROVM", sizeof("MICROVM"));
	t->minor_revision = 3;
	seal(&t->h, "FACP", 6, sizeof(*t));
	return gpa_of(r, t);
}

static uint32_t apic_id(const struct fw_machine *m, unsigned cpu)
{
	return m->cpu_ids ? m->cpu_ids[cpu] : cpu;
}

/* The UID is the index, as the DSDT's processor devices say it. */
static uint8_t *put_madt_cpu(uint8_t *p, unsigned uid, uint32_t id, uint32_t flags)
{
	if (id < X2APIC_FIRST) {
		struct madt_lapic e = { MADT_LAPIC, sizeof(e), (uint8_t)uid, (uint8_t)id, flags };

		return (uint8_t *)memcpy(p, &e, sizeof(e)) + sizeof(e);
	}
	struct madt_x2apic e = { MADT_X2APIC, sizeof(e), 0, id, flags, uid };

	return (uint8_t *)memcpy(p, &e, sizeof(e)) + sizeof(e);
}

/*
 * §5.2.12.2 and .12: an APIC whose id is below 255 gets a local APIC entry, others an x2APIC entry.
 * Interrupt source overrides are for ISA lines wired elsewhere than to the GSI of their number;
 * there are no ISA lines here.
 */
static uint64_t put_madt(struct room *r, const struct fw_machine *m)
{
	const struct madt_ioapic ioapic = { MADT_IOAPIC, sizeof(ioapic), 0, 0, IOAPIC_ADDRESS };
	const struct madt_lapic_nmi nmi = { MADT_LAPIC_NMI, sizeof(nmi), MADT_EVERY_LAPIC, 0,
		LINT_OF_NMI };
	const struct madt_x2apic_nmi nmi2 = { MADT_X2APIC_NMI, sizeof(nmi2), 0, UINT32_MAX,
		LINT_OF_NMI };
	unsigned cpus = MAX(m->cpus, m->cpus_max), big = 0;
	struct madt *t;
	uint8_t *p;
	size_t len;

	for (unsigned i = 0; i < cpus; i++)
		big += apic_id(m, i) >= X2APIC_FIRST;
	len = sizeof(*t) + (cpus - big) * sizeof(struct madt_lapic) + big * sizeof(struct madt_x2apic) +
		sizeof(ioapic) + sizeof(nmi) + (big ? sizeof(nmi2) : 0);
	t = take(r, len);
	if (!t)
		return 0;
	p = (uint8_t *)(t + 1);
	t->local_apic = LOCAL_APIC_ADDRESS;
	for (unsigned i = 0; i < cpus; i++)
		p = put_madt_cpu(p, i, apic_id(m, i), i < m->cpus ? MADT_ENABLED : MADT_ONLINE_CAPABLE);
	p = (uint8_t *)memcpy(p, &ioapic, sizeof(ioapic)) + sizeof(ioapic);
	p = (uint8_t *)memcpy(p, &nmi, sizeof(nmi)) + sizeof(nmi);
	if (big)
		memcpy(p, &nmi2, sizeof(nmi2));
	seal(&t->h, "APIC", 5, (uint32_t)len);
	return gpa_of(r, t);
}

static uint64_t put_mcfg(struct room *r, const struct fw_pci *pci)
{
	struct mcfg *t = take(r, sizeof(*t));

	if (!t)
		return 0;
	t->base = pci->ecam_base;
	t->last_bus = (uint8_t)(pci->buses - 1);
	seal(&t->h, "MCFG", 1, sizeof(*t));
	return gpa_of(r, t);
}

static uint64_t put_xsdt(struct room *r, const uint64_t *table, unsigned n)
{
	struct header *h = take(r, sizeof(*h) + n * sizeof(*table));

	if (!h)
		return 0;
	memcpy(h + 1, table, n * sizeof(*table));
	seal(h, "XSDT", 1, (uint32_t)(sizeof(*h) + n * sizeof(*table)));
	return gpa_of(r, h);
}

static void seal_rsdp(struct rsdp *p, uint64_t xsdt)
{
	memcpy(p->signature, "RSD PTR ", sizeof(p->signature));
	memcpy(p->oem_id, "MICROV", sizeof(p->oem_id));
	p->revision = 2;
	p->length = sizeof(*p);
	p->xsdt = xsdt;
	p->checksum = checksum(p, RSDP_V1_LEN);
	p->extended_checksum = checksum(p, sizeof(*p));
}

static int check_machine(const struct fw_machine *m, uint64_t at, uint64_t room, struct error *err)
{
	const struct fw_node *ged = fw_node(m, "ged", 0);

	if (!m->cpus || MAX(m->cpus, m->cpus_max) > FW_CPUS_MAX)
		return error_set(err, EINVAL,
			"ACPI tables: %u vCPUs cannot be described; give 1 to %d",
			MAX(m->cpus, m->cpus_max), FW_CPUS_MAX);
	if (!is_aligned(at, ACPI_ALIGN) || !range_inside(at, room, 0, UINT64_C(1) << 32))
		return error_set(err, EINVAL,
			"ACPI tables: cannot lie at %#" PRIx64
			"; give an aligned place below 4 GiB",
			at);
	if (ged && (ged->len < ACPI_GED_LEN ||
			   (ged->pio && !range_inside(ged->base, ged->len, 0, 0x10000))))
		return error_set(err, EINVAL,
			"ACPI tables: the event device needs %d bytes, not %" PRIu64
			" at %#" PRIx64,
			ACPI_GED_LEN, ged->len, ged->base);
	return 0;
}

int acpi_build(const struct fw_machine *m, uint64_t at, uint64_t room, uint64_t *ret_rsdp,
	struct error *err)
{
	struct room r = { .gpa = at, .len = room };
	uint64_t table[TABLES_MAX], dsdt, xsdt;
	struct rsdp *rsdp;
	unsigned n = 0;
	int e = check_machine(m, at, room, err);

	if (e)
		return e;
	r.host = fw_ram_at(m, at, room);
	if (!r.host)
		return error_set(err, EINVAL,
			"ACPI tables: %" PRIu64 " bytes at %#" PRIx64
			" are not RAM; give the machine more memory",
			room, at);
	rsdp = take(&r, sizeof(*rsdp));
	e = put_dsdt(&r, m, &dsdt);
	if (e == -EINVAL)
		return error_set(
			err, EINVAL, "ACPI tables: a device or PCI window has no valid range");
	if (!e) {
		table[n++] = put_fadt(&r, m, dsdt);
		table[n++] = put_madt(&r, m);
		if (m->pci.ecam_base)
			table[n++] = put_mcfg(&r, &m->pci);
		xsdt = put_xsdt(&r, table, n);
	}
	if (e || r.full)
		return error_set(err, ENOSPC,
			"ACPI tables: %u vCPUs and %u devices need more than %" PRIu64
			" KiB; use fewer",
			MAX(m->cpus, m->cpus_max), m->nnodes, room / KIB);
	seal_rsdp(rsdp, xsdt);
	*ret_rsdp = at;
	return 0;
}
