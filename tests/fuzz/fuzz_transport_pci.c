/*
 * A guest against virtio over PCI: BAR and config space accesses of any kind, rings of any content.
 */
#include "tests/fuzz/transport.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig;
	struct instruction i;
	struct pci_function *fn;

	log_level = LOG_ERROR;
	rig_init(&rig);
	MUST(rig_echo(&rig, VIRTIO_TRANSPORT_PCI) == 0);
	fn = rig_front(&rig)->transport;
	for (unsigned n = 0; n < PROGRAM_MAX && program_next(&data, &size, &i); n++) {
		uint64_t at = fn->bar[0].mapped + i.at % 0x4000u;

		if (i.op & 0x80)
			run_common(&rig, &i);
		else if (i.op == 0)
			rig_read(rig.mmio, at, i.len);
		else if (i.op == 1)
			rig_read(rig.mmio, RIG_ECAM + 0x8000 + i.at % 0x100u, i.len);
		else if (i.op == 2)
			rig_write(rig.mmio, RIG_ECAM + 0x8000 + i.at % 0x100u, i.value, i.len);
		else if (i.op < 0x40)
			rig_write(rig.mmio, fn->bar[0].mapped + i.at % 0x38u, i.value, i.len);
		else
			rig_write(rig.mmio, at, i.value, i.len);
		check_front(rig_front(&rig));
	}
	rig_fini(&rig);
	return 0;
}
