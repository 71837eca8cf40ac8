/* What both transports must keep whatever a guest does; see program.h. */
#ifndef TESTS_FUZZ_TRANSPORT_H
#define TESTS_FUZZ_TRANSPORT_H

#include "tests/fuzz/program.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

static void check_front(struct front *f)
{
	const unsigned dead = VIRTIO_S_FAILED | VIRTIO_S_NEEDS_RESET;

	if (f->status & VIRTIO_S_DRIVER_OK)
		MUST(f->status & VIRTIO_S_FEATURES_OK);
	if (f->status & VIRTIO_S_FEATURES_OK) {
		MUST(!(f->driver_features & ~f->dev->offered));
		MUST(f->driver_features & VIRTIO_BIT(VIRTIO_F_VERSION_1));
	}
	for (unsigned i = 0; i < f->dev->nqueues; i++) {
		MUST(f->q[i].running == !!f->dev->queues[i]);
		if (f->q[i].running)
			MUST(f->q[i].enabled && (f->status & VIRTIO_S_DRIVER_OK));
		if (f->q[i].enabled &&
			(f->status & (VIRTIO_S_DRIVER_OK | dead)) == VIRTIO_S_DRIVER_OK)
			MUST(f->q[i].running);
		if (f->status & VIRTIO_S_FAILED)
			MUST(!f->q[i].running);
		if (f->dev->queues[i])
			MUST(!queue_in_flight(f->dev->queues[i]));
	}
	MUST(!(f->dev->config.own.seq & 1));
}

/* Save, go through reset, load, go on: a device that could be saved can be loaded. */
static void save_and_load(struct rig *rig)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct front *f = rig_front(rig);
	uint8_t status;

	rig->dev->ops->pause(rig->dev);
	status = f->status;
	MUST(rig->dev->ops->save(rig->dev, &w) == 0);
	rig->dev->ops->reset(rig->dev);
	MUST(f->status == 0);
	r = (struct state_reader){ w.data, w.len, 0 };
	MUST(rig->dev->ops->load(rig->dev, &r, &rig->err) == 0);
	MUST(state_reader_finish(&r, &rig->err) == 0);
	MUST(f->status == status);
	rig->dev->ops->resume(rig->dev);
	state_writer_free(&w);
}

/* Opcodes that have nothing to do with a transport's registers. */
static void run_common(struct rig *rig, const struct instruction *i)
{
	switch (i->op & 7) {
	case 0:
		put_le64((uint8_t *)rig->ram + 0x10000 + i->at % 0x10000u, i->value);
		break;
	case 1:
		rig_put(rig, i->at % ECHO_QUEUES, (uint16_t)i->value, 1);
		break;
	case 2:
		rig_main(rig);
		break;
	case 3:
		rig->dev->ops->pause(rig->dev);
		rig->dev->ops->resume(rig->dev);
		break;
	case 4:
		save_and_load(rig);
		break;
	case 5:
		if (i->value == 0)
			rig->dev->ops->reset(rig->dev);
		break;
	case 6:
		if (!rig_front(rig)->status)
			rig_drive(rig, i->at % (ECHO_QUEUES + 1), RIG_SPLIT |
				(i->value & rig_front(rig)->dev->offered));
		break;
	default:
		rig_front(rig)->dev->config_changed(rig_front(rig)->dev);
		break;
	}
	check_front(rig_front(rig));
}

#endif
