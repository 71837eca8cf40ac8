/* A guest against virtio over MMIO: register accesses of any kind, rings of any content. */
#include "tests/fuzz/transport.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig;
	struct instruction i;
	uint64_t base;

	log_level = LOG_ERROR;
	rig_init(&rig);
	MUST(rig_echo(&rig, VIRTIO_TRANSPORT_MMIO) == 0);
	base = rig.dev->nodes[0].base;
	for (unsigned n = 0; n < PROGRAM_MAX && program_next(&data, &size, &i); n++) {
		if (i.op & 0x80)
			run_common(&rig, &i);
		else if (i.op == 0)
			rig_read(rig.mmio, base + i.at % 0x210u, i.len);
		else if (i.op < 0x40)
			rig_write(rig.mmio, base + i.at % 0x210u, i.value, i.len);
		else
			rig_write(rig.mmio, base + i.at % 0xa8u / 4 * 4, i.value, 4);
		check_front(rig_front(&rig));
	}
	rig_fini(&rig);
	return 0;
}
