/*
 * MSI-X (PCI Local Bus 3.0 §6.8.2): a table of messages in a BAR, with a mask bit each, a mask for
 * the function and an enable bit in config space. A vector is an irq_source: while anything masks
 * it its rings stay in its eventfd, and the pending bit array is read from there; unmasking
 * delivers the one interrupt that waited.
 *
 * The table takes aligned accesses of 4 and 8 bytes, as the specification asks of drivers; all
 * others do nothing. The message of a vector goes to the interrupt chip only when the vector can
 * fire with it, so a driver that writes address, data and control in turn behind the mask bit costs
 * one change.
 *
 * vCPU threads; the mutex of the table guards it, taken inside the root's lock or without.
 */
#include "devices/pci/pci.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "devices/pci/root.h"
#include "vmm/log.h"

enum {
	MSIX_CAP_ID = 0x11,
	MSIX_CONTROL = 2,            /* offset in the capability */
	MSIX_CONTROL_ENABLE = 1 << 15,
	MSIX_CONTROL_MASK = 1 << 14,
	MSIX_ENTRY_MASK = 1,
};

/* §6.8.2.3 */
struct msix_cap_body {
	uint16_t control;
	uint32_t table, pba;         /* offset | BAR number */
} __attribute__((packed));
_Static_assert(sizeof(struct msix_cap_body) == 10, "PCI 3.0 §6.8.2: 12 bytes with id and next");

/* §6.8.2.7 */
struct msix_entry {
	uint32_t addr_lo, addr_hi, data, control;
};
_Static_assert(sizeof(struct msix_entry) == 16, "PCI 3.0 §6.8.2.6");

struct msix_vector {
	struct msix_entry entry;     /* lock */
	bool open;                   /* lock; the chip has the message below and is not masked */
	struct msix_entry applied;   /* lock */
	struct irq_source *source;   /* const */
};

struct pci_msix {
	struct irqchip *irq;         /* const */
	unsigned n, bar, cap;        /* const */
	uint32_t table, pba;         /* const */
	pthread_mutex_t lock;
	bool enabled, masked;        /* lock */
	struct msix_vector v[];
};

static void vector_clear(struct msix_vector *v)
{
	v->entry = (struct msix_entry){ .control = MSIX_ENTRY_MASK };
}

int pci_msix_create(struct pci_function *fn, struct irqchip *irq, unsigned vectors, unsigned bar,
	uint32_t table, uint32_t pba, struct error *err)
{
	static const uint16_t writable = MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK;
	const struct msix_cap_body body = { (uint16_t)(vectors - 1), table | bar, pba | bar };
	struct pci_msix *m = calloc(1, sizeof(*m) + vectors * sizeof(m->v[0]));
	int r = 0;

	if (!m)
		return error_set(err, ENOMEM, "%s: out of memory for MSI-X vectors", fn->name);
	*m = (struct pci_msix){ .irq = irq, .n = vectors, .bar = bar, .table = table, .pba = pba };
	pthread_mutex_init(&m->lock, NULL);
	fn->msix = m;
	m->cap = pci_cap_add(fn, MSIX_CAP_ID, &body, 2 + sizeof(body));
	if (!m->cap)
		return error_set(err, ENOSPC, "%s: no room for the MSI-X capability", fn->name);
	pci_config_writable(fn, m->cap + MSIX_CONTROL, &writable, sizeof(writable));
	for (unsigned i = 0; r == 0 && i < vectors; i++) {
		vector_clear(&m->v[i]);
		r = irq_msi_create(&m->v[i].source, irq, fn->devfn, err);
	}
	return r < 0 ? error_prefix(err, r, "%s", fn->name) : 0;
}

void pci_msix_destroy(struct pci_function *fn)
{
	struct pci_msix *m = fn->msix;

	if (!m)
		return;
	for (unsigned i = 0; i < m->n; i++)
		irq_destroy(m->v[i].source);
	pthread_mutex_destroy(&m->lock);
	free(m);
	fn->msix = NULL;
}

static void apply(struct pci_function *fn, struct msix_vector *v)
{
	struct pci_msix *m = fn->msix;
	bool open = m->enabled && !m->masked && !(v->entry.control & MSIX_ENTRY_MASK);
	uint64_t addr = v->entry.addr_lo | (uint64_t)v->entry.addr_hi << 32;
	int r;

	if (open == v->open && (!open || !memcmp(&v->entry, &v->applied, sizeof(v->entry))))
		return;
	r = irq_msi_set(v->source, addr, v->entry.data, !open);
	/*
	 * Refused by the host: the vector stays silent, and is tried again when the guest touches
	 * it.
	 */
	v->open = open && r == 0;
	v->applied = v->entry;
	if (r < 0)
		log_guest(LOG_WARN, "%s: MSI-X vector %u to %#llx is not routed: %s", fn->name,
			(unsigned)(v - m->v), (unsigned long long)addr, strerror(-r));
}

static void apply_all(struct pci_function *fn)
{
	struct pci_msix *m = fn->msix;
	int r;

	irqchip_batch_begin(m->irq);
	for (unsigned i = 0; i < m->n; i++)
		apply(fn, &m->v[i]);
	r = irqchip_batch_end(m->irq);
	if (r < 0)
		log_guest(
			LOG_WARN, "%s: MSI-X messages are not routed: %s", fn->name, strerror(-r));
}

void pci_msix_control_written(struct pci_function *fn, unsigned offset, unsigned len)
{
	struct pci_msix *m = fn->msix;
	uint16_t control;

	if (!m || !ranges_overlap(offset, len, m->cap + MSIX_CONTROL, 2))
		return;
	control = get_le16(fn->config + m->cap + MSIX_CONTROL);
	pthread_mutex_lock(&m->lock);
	m->enabled = control & MSIX_CONTROL_ENABLE;
	m->masked = control & MSIX_CONTROL_MASK;
	apply_all(fn);
	pthread_mutex_unlock(&m->lock);
}

static uint64_t pending_bits(const struct pci_msix *m, unsigned first)
{
	uint64_t bits = 0;

	for (unsigned i = first; i < m->n && i < first + 64; i++)
		if (!m->v[i].open && irq_pending(m->v[i].source))
			bits |= UINT64_C(1) << (i - first);
	return bits;
}

static bool in_table(const struct pci_msix *m, uint64_t offset, unsigned len)
{
	return range_inside(offset, len, m->table, m->n * sizeof(struct msix_entry));
}

static bool in_pba(const struct pci_msix *m, uint64_t offset, unsigned len)
{
	return range_inside(offset, len, m->pba, align_up(m->n, 64) / 8);
}

static bool good_access(uint64_t offset, unsigned len)
{
	return (len == 4 || len == 8) && is_aligned(offset, len);
}

bool pci_msix_read(struct pci_function *fn, unsigned bar, uint64_t offset, void *data, unsigned len)
{
	struct pci_msix *m = fn->msix;

	if (!m || bar != m->bar || (!in_table(m, offset, len) && !in_pba(m, offset, len)))
		return false;
	memset(data, 0, len);
	if (!good_access(offset, len))
		return true;
	pthread_mutex_lock(&m->lock);
	if (in_table(m, offset, len)) {
		uint64_t at = offset - m->table;
		const struct msix_entry *e = &m->v[at / sizeof(*e)].entry;

		memcpy(data, (const uint8_t *)e + at % sizeof(*e), len);
	} else {
		uint64_t at = offset - m->pba;

		put_le(data, pending_bits(m, (unsigned)(at / 8 * 64)) >> (at % 8 * 8), len);
	}
	pthread_mutex_unlock(&m->lock);
	return true;
}

bool pci_msix_write(
	struct pci_function *fn, unsigned bar, uint64_t offset, const void *data, unsigned len)
{
	struct pci_msix *m = fn->msix;

	if (!m || bar != m->bar)
		return false;
	if (in_pba(m, offset, len))
		return true; /* read-only */
	if (!in_table(m, offset, len))
		return false;
	if (good_access(offset, len)) {
		uint64_t at = offset - m->table;
		struct msix_vector *v = &m->v[at / sizeof(v->entry)];

		pthread_mutex_lock(&m->lock);
		memcpy((uint8_t *)&v->entry + at % sizeof(v->entry), data, len);
		v->entry.control &= MSIX_ENTRY_MASK; /* the rest is reserved, reads 0 */
		apply(fn, v);
		pthread_mutex_unlock(&m->lock);
	}
	return true;
}

struct irq_source *pci_msix_source(struct pci_function *fn, unsigned vector)
{
	return fn->msix && vector < fn->msix->n ? fn->msix->v[vector].source : NULL;
}

void pci_msix_reset(struct pci_function *fn)
{
	struct pci_msix *m = fn->msix;

	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->n; i++)
		vector_clear(&m->v[i]);
	apply_all(fn);
	pthread_mutex_unlock(&m->lock);
}

/*
 * A table is as long as its device has queues, a state table is not: the stream has pieces of 16
 * vectors.
 */
enum { PIECE = 16 };

struct msix_piece {
	uint32_t vectors, first; /* of the whole table; compared, not restored */
	uint64_t addr[PIECE];
	uint32_t data[PIECE];
	bool masked[PIECE], pending[PIECE];
};

static const struct state_field piece_fields[] = {
	STATE_FIELD(struct msix_piece, vectors),
	STATE_FIELD(struct msix_piece, first),
	STATE_ARRAY(struct msix_piece, addr),
	STATE_ARRAY(struct msix_piece, data),
	STATE_ARRAY(struct msix_piece, masked),
	STATE_ARRAY(struct msix_piece, pending),
	STATE_END,
};

const struct state_desc pci_msix_state = {
	.name = "msix",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct msix_piece),
	.fields = piece_fields,
};

int pci_msix_save(struct pci_function *fn, struct state_writer *w)
{
	struct pci_msix *m = fn->msix;
	int r = 0;

	for (unsigned first = 0; r == 0 && m && first < m->n; first += PIECE) {
		struct msix_piece p = { .vectors = m->n, .first = first };

		for (unsigned i = 0; i < PIECE && first + i < m->n; i++) {
			const struct msix_vector *v = &m->v[first + i];

			p.addr[i] = v->entry.addr_lo | (uint64_t)v->entry.addr_hi << 32;
			p.data[i] = v->entry.data;
			p.masked[i] = v->entry.control & MSIX_ENTRY_MASK;
			p.pending[i] = !v->open && irq_pending(v->source);
		}
		r = state_save(w, &pci_msix_state, &p);
	}
	return r;
}

static void piece_take(struct pci_msix *m, const struct msix_piece *p)
{
	for (unsigned i = 0; i < PIECE && p->first + i < m->n; i++) {
		struct msix_vector *v = &m->v[p->first + i];

		v->entry = (struct msix_entry){ (uint32_t)p->addr[i], (uint32_t)(p->addr[i] >> 32),
			p->data[i], p->masked[i] ? MSIX_ENTRY_MASK : 0 };
		if (p->pending[i])
			irq_raise(v->source);
	}
}

int pci_msix_load(struct pci_function *fn, struct state_reader *r, struct error *err)
{
	struct pci_msix *m = fn->msix;
	int ret;

	for (unsigned first = 0; m && first < m->n; first += PIECE) {
		struct msix_piece p = { 0 };

		ret = state_load(r, &pci_msix_state, &p, err);
		if (ret < 0)
			return error_prefix(err, ret, "%s", fn->name);
		if (p.vectors != m->n || p.first != first)
			return error_set(err, EINVAL,
				"%s: the saved MSI-X table has %u vectors, this one "
				"%u; the machine must be made with the options it was saved with",
				fn->name, p.vectors, m->n);
		pthread_mutex_lock(&m->lock);
		piece_take(m, &p);
		pthread_mutex_unlock(&m->lock);
	}
	if (!m)
		return 0;
	pthread_mutex_lock(&m->lock);
	apply_all(fn);
	pthread_mutex_unlock(&m->lock);
	return 0;
}
